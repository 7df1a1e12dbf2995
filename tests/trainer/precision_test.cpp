// What a user writes under `precision:`: names, overrides, recipes written out; and what is refused of it.
#include "trainer/precision.hpp"

#include <gtest/gtest.h>

#include "quant/quantize.hpp"
#include "tests/trainer/expect_error.hpp"
#include "trainer/recipe_yaml.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/units.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

constexpr int64_t steps = 1000, layers = 6;  // of llama-30m

Settings settings_with(const std::string& precision, const std::vector<std::string>& overrides = {}) {
  return parse_settings(
      "model: {preset: llama-30m}\ndata: {train: train.h5}\nbatch: {tokens: 512}\nsteps: 10\n"
      "run: {directory: runs/a}\n" +
          precision,
      "run.yaml", overrides);
}
Precision precision_with(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return precision_of(settings_with(yaml, overrides), steps, layers);
}
/// "bf16" or "bf16, 900: fp8".
std::string phases(const Precision& precision, int64_t layer, Projection projection = Projection::qkv) {
  std::string text;
  for (const auto& [first, recipe] : precision.phases(layer, projection))
    text += (text.empty() ? "" : fmt::format(", {}: ", first)) + recipe.name;
  return text;
}
void refused(const std::string& yaml, const std::vector<std::string>& texts) {
  expect_error(ErrorKind::configuration, texts, [&] { precision_with(yaml); });
}

TEST(PrecisionSettings, ARowAMemberOfAFamilyOrTwoRowsCombined) {
  EXPECT_EQ(precision_with("").recipe(), find_recipe("bf16"));
  for (const Recipe& recipe : recipes())
    EXPECT_EQ(precision_with("precision: {recipe: " + recipe.name + "}").recipe(), recipe);
  EXPECT_EQ(precision_with("precision: {recipe: quest-w3a16-plain}").recipe(), find_recipe("quest-w3a16-plain"));
  const Recipe both = precision_with("precision: {forward: quest-w4a4, backward: tetrajet2}").recipe();
  EXPECT_EQ(both.forward, find_recipe("quest-w4a4").forward);
  EXPECT_EQ(both.backward, find_recipe("tetrajet2").backward);
  EXPECT_EQ(precision_with("", {"precision.recipe=quartet2", "precision.forward=bf16"}).recipe().backward,
            find_recipe("quartet2").backward);
}

TEST(PrecisionSettings, UnknownNamesAreAnsweredWithTheNearest) {
  refused("precision: {recipe: quartett2}", {"unknown recipe", "run.yaml:6:13", "seen:    quartett2", "nvfp4-nvidia",
                                             "quest-wXaY", "did you mean 'quartet2'"});
  refused("precision: {recipe: fp9, overrides: [{phase: last 10%, forward: bf16}]}",
          {"precision.recipe (run.yaml:6:13)", "did you mean 'fp8'"});
  refused("precision: {forward: fp9}", {"precision.forward (run.yaml:6:13)", "did you mean 'fp8'"});
  refused("precision: {overrides: [{recipe: fp8}, {layers: 1, backward: fp88}]}",
          {"precision.overrides[1].backward (run.yaml:6:13)", "did you mean 'fp8'"});
  refused("precision: {forward: fp32, backward: fp8}", {"fp32", "take bf16"});
  expect_error(ErrorKind::configuration, {"--recipe", "quartet2"}, [] { find_recipe("quartet22", {}, "--recipe"); });
}

TEST(PrecisionSettings, OverridesByLayerProjectionAndPhase) {
  const Precision precision = precision_with(
      "precision:\n"
      "  recipe: quartet2\n"
      "  overrides:\n"
      "    - {phase: last 10%, forward: bf16}\n"
      "    - {layers: [0-1, last 1], projections: [down, output], recipe: fp8}\n"
      "    - {layers: 3, projections: qkv, phase: 200 to 50%, backward: bf16}\n"
      "  keep_bf16: {last: 1}\n");
  EXPECT_EQ(phases(precision, 2), "quartet2, 900: bf16+quartet2");
  EXPECT_EQ(phases(precision, 0), "quartet2, 900: bf16+quartet2");
  EXPECT_EQ(phases(precision, 1, Projection::down), "fp8");
  EXPECT_EQ(phases(precision, 3), "quartet2, 200: quartet2+bf16, 500: quartet2, 900: bf16+quartet2");
  EXPECT_EQ(phases(precision, 3, Projection::down), "quartet2, 900: bf16+quartet2");
  EXPECT_EQ(phases(precision, 5), "bf16");
  EXPECT_EQ(phases(precision, 5, Projection::down), "bf16");
  EXPECT_EQ(phases(precision.at(950), 3), "bf16+quartet2");
  EXPECT_EQ(phases(precision.at(300), 3), "quartet2+bf16");
}

TEST(PrecisionSettings, WordsOfOverrides) {
  using Span = std::pair<int64_t, int64_t>;
  EXPECT_EQ(layer_span("3", layers), (Span{3, 4}));
  EXPECT_EQ(layer_span("2-5", layers), (Span{2, 6}));
  EXPECT_EQ(layer_span("first 2", layers), (Span{0, 2}));
  EXPECT_EQ(layer_span("last 4", layers), (Span{2, 6}));
  EXPECT_EQ(step_span("last 10%", steps), (Span{900, 1000}));
  EXPECT_EQ(step_span("first 2k", steps), (Span{0, 1000}));
  EXPECT_EQ(step_span("100 to 50%", steps), (Span{100, 500}));
  for (const char* text : {"", "two", "5-2", "-1", "last", "last 9", "first x"})
    EXPECT_THROW(layer_span(text, layers), ValueError) << text;
  for (const char* text : {"10%", "last", "to", "50% to 10%", "first 110%", "last -5"})
    EXPECT_THROW(step_span(text, steps), ValueError) << text;
}

TEST(PrecisionSettings, WrongOverridesAreRefusedWithTheirPlace) {
  refused("precision: {overrides: [{layer: 1, recipe: fp8}]}",
          {"unknown part", "run.yaml:6:26", "did you mean 'layers'"});
  refused("precision: {overrides: [{layers: x, recipe: fp8}]}", {"run.yaml:6:25", "not a number", "first 2, last 4"});
  refused("precision: {overrides: [{projections: qvk, recipe: fp8}]}", {"unknown projection 'qvk'", "qkv, output"});
  refused("precision: {overrides: [{phase: at the end, recipe: fp8}]}", {"no phase of a run", "last 10%"});
  refused("precision: {overrides: [{layers: 1}]}", {"changes nothing"});
  refused("precision: {overrides: {layers: 1}}", {"a list of maps"});
  refused("precision: {overrides: [{layers: 6-8, recipe: fp8}]}",
          {"does not have", "precision.overrides[0].layers (run.yaml:6:13)", "seen:    6-8", "0 to 5"});
  refused("precision: {keep_bf16: {first: 5, last: 4}}",
          {"more blocks are kept", "precision.keep_bf16.last (run.yaml:6:35)", "together at most 6"});
  refused("precision: {recipe: fp32, overrides: [{layers: 1, recipe: fp8}]}", {"fp32 stands alone"});
}

constexpr const char* e3m2_per_16 =
    "{name: mine, forward: {rotation: {size: full}, input: {like: nvfp4, element: e3m2, divisor: 28}, weight: nvfp4},"
    " backward: {weight: {rotation: {size: 32, signs: random}, error: {element: e5m2, divisor: 57344}}}}";

TEST(WrittenRecipe, EveryPartCanBeSaid) {
  const Recipe mine = precision_with(fmt::format("precision: {{recipe: {}}}", e3m2_per_16)).recipe();
  EXPECT_EQ(mine.name, "mine");
  EXPECT_EQ(mine.forward.rotation.size, Rotation::full);
  EXPECT_EQ(mine.forward.input.element, &formats::e3m2);
  EXPECT_EQ(mine.forward.input.group, 16);
  EXPECT_EQ(mine.forward.input.scale, ScaleFormat::e4m3);
  EXPECT_EQ(mine.forward.weight, find_recipe("nvfp4-nvidia").forward.input);
  EXPECT_EQ(mine.backward.weight.rotation, (Rotation{32, Signs::random}));
  EXPECT_EQ(mine.backward.weight.error.extent, Extent::tensor);
  EXPECT_FALSE(mine.backward.input.error.quantizes());
}

TEST(WrittenRecipe, EveryRowIsReadAsItIsPrinted) {
  const PlaceOf nowhere = [](const YAML::Node&) { return std::string("here"); };
  std::vector<Recipe> all = recipes();
  for (const char* name : {"quest-w1a1", "quest-w4a16-plain", "ste-w3a8"}) all.push_back(find_recipe(name));
  for (Recipe recipe : all) {
    if (recipe.name == "fp32") continue;
    recipe.name = "my-" + recipe.name;
    EXPECT_EQ(read_recipe(YAML::Load(print_recipe(recipe)), nowhere), recipe) << print_recipe(recipe);
  }
}

TEST(WrittenRecipe, StandsInTheCompleteConfiguration) {
  const Settings settings = settings_with(fmt::format(
      "precision:\n  recipe: mine\n  overrides: [{{phase: last 10%, recipe: other}}]\n  recipes:\n  - {}\n"
      "  - {{name: other, forward: {{input: {{like: nvfp4, divisor: 7.5, element: {{name: e2m2, exponent_bits: 2, "
      "mantissa_bits: 2, max: 7}}}}}}}}\n",
      e3m2_per_16));
  ASSERT_EQ(settings.precision.recipes.size(), 2u);
  const std::string yaml = settings_yaml(settings);
  const Settings again = parse_settings(yaml, "config.yaml");
  EXPECT_EQ(again, settings) << yaml;
  EXPECT_EQ(again.precision.recipes[1].forward.input.element, settings.precision.recipes[1].forward.input.element);
  EXPECT_EQ(phases(precision_of(again, steps, layers), 0), "mine, 900: other");

  Settings changed = settings;
  changed.precision.recipes[0].forward.input.divisor = 27;
  const std::vector<SettingDifference> found = setting_differences(settings, changed);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].key, "precision.recipes");
  EXPECT_TRUE(found[0].identity);
}

TEST(WrittenRecipe, IsReadFromTheCommandLine) {
  const Precision precision = precision_with("", {"precision.recipe={name: mine, forward: fp8, backward: {}}",
                                                  "precision.overrides=[{layers: 0, recipe: bf16}]"});
  EXPECT_EQ(phases(precision, 0), "bf16");
  EXPECT_EQ(phases(precision, 1), "mine");
  expect_error(ErrorKind::configuration, {"--set precision.recipe={name: mine", "not valid YAML"},
               [] { precision_with("", {"precision.recipe={name: mine"}); });
}

// A format is one description: blocks of 16 elements of 6 bits under E4M3 scales, by hand.
TEST(WrittenRecipe, AFormatOfItsOwnQuantizes) {
  const Recipe mine = precision_with(
                          "precision: {recipe: {name: mine, forward: {input: {like: nvfp4, divisor: 28, element: "
                          "{name: my-e3m2, exponent_bits: 3, mantissa_bits: 2, min_exponent: -2, max: 28}}}}}")
                          .recipe();
  const Quantizer& quantizer = mine.forward.input;
  EXPECT_EQ(quantizer.element->bits(), 6);
  EXPECT_TRUE(quantizer.exact_in_bf16());
  EXPECT_EQ(quantizer.bits_per_element(), 6.5);
  // The largest block has the scale 448, the second one 112; 2^-4 is the smallest step.
  const float q[32] = {28, 3.4f, -3.4f, 0.05f, 0.02f, 8.9f, 13.1f, 0, 1, 2, 3, 4, 5, 6, 7, 8,
                       28, 3.4f, -3.4f, 0.05f, 0.02f, 8.9f, 13.1f, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  const float rounded[16] = {28, 3.5f, -3.5f, 0.0625f, 0, 8, 14, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  const OwnedTensor x(DType::f32, 1, 32), values(DType::f32, 1, 32);
  for (int i = 0; i < 32; ++i) x.view().as<float>()[i] = q[i] * (i < 16 ? 448.0f : 112.0f);
  Stream stream(1);
  const Quantization how{.quantizer = quantizer};
  const Operand input{.values = x.view()};
  const Operand operand = quantize(stream, input, how, tensor_statistic(stream, input, how), values.view());
  EXPECT_EQ(operand.factor, 1);
  for (int i = 0; i < 32; ++i)
    EXPECT_EQ(values.view().as<float>()[i], rounded[i % 16] * (i < 16 ? 448.0f : 112.0f)) << i;
}

TEST(WrittenRecipe, MistakesAreRefusedWithTheirPlace) {
  const auto forward = [](const std::string& input) {
    return "precision:\n  recipe:\n    name: mine\n    forward:\n      input: " + input + "\n";
  };
  refused(forward("{elemnt: e2m1}"), {"unknown part", "run.yaml:10:15", "did you mean 'element'"});
  refused(forward("{element: e2m7}"), {"unknown element format", "run.yaml:10:24", "e2m3", "did you mean"});
  refused(forward("{element: e2m1, scale: e4m4}"), {"unknown word", "f32, e8m0, e4m3", "did you mean 'e4m3'"});
  refused(forward("{like: nvfp5}"), {"unknown name", "did you mean 'nvfp4'"});
  refused(forward("{like: nvfp4, group: 16.5}"), {"not a number", "seen:    16.5", "a whole number"});
  refused(forward("{like: nvfp4, group: 16, group: 16}"), {"a part twice"});
  refused(forward("{like: nvfp4, mask: trust, mask_width: 1}"),
          {"trust mask", "run.yaml:8:5", "recipe mine, forward.input"});
  refused(forward("{like: nvfp4, element: {name: e2m2, exponent_bits: 2, mantissa_bits: 2, max: 8}}"),
          {"no value of the format", "run.yaml:10:37", "up to 7"});
  refused("precision: {recipe: {forward: fp8}}", {"name is missing"});
  refused("precision: {recipe: {name: fp8, forward: fp8}}", {"'fp8' is the name of another recipe"});
  refused("precision: {recipes: [{name: a, forward: fp8}, {name: a, forward: mxfp8}]}",
          {"another recipe is called 'a' already"});
  refused("precision: {recipe: [fp8]}", {"no single value", "run.yaml:6:21"});
}

TEST(WrittenRecipe, ABiasedOneIsWarnedOf) {
  const Precision precision = precision_with(
      "precision: {recipe: {name: mine, backward: {weight: {error: {like: nvfp4-4over6, rounding: stochastic}}}}}");
  ASSERT_EQ(warnings_of(precision).size(), 1u);
  EXPECT_NE(warnings_of(precision)[0].find("65/64"), std::string::npos);
  EXPECT_TRUE(warnings_of(precision_with("precision: {recipe: quartet2}")).empty());
}

}  // namespace
}  // namespace nibble
