#include "quant/recipe.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "quant/quantizers.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using namespace quantizers;
using formats::e2m1, formats::e2m3, formats::e3m2, formats::e4m3, formats::e5m2, formats::int8;

constexpr Rotation hadamard(int64_t size) { return {size, Signs::none}; }
constexpr Rotation randomized_hadamard(int64_t size) { return {size, Signs::random}; }
constexpr Rotation full_hadamard = hadamard(Rotation::full);

constexpr ForwardRecipe both(const Quantizer& quantizer, Rotation rotation = {}) {
  return {rotation, quantizer, quantizer};
}
/// Both gradients with one quantizer for all four operands.
constexpr BackwardRecipe all_four(const Quantizer& quantizer, Rotation rotation, Source source = Source::multiplied) {
  const GradientRecipe gradient{.rotation = rotation, .error = quantizer, .source = source, .other = quantizer};
  return {gradient, gradient};
}
/// Only the error is quantized; w and x are those of the forward product.
constexpr BackwardRecipe error_only(const Quantizer& error) { return {{.error = error}, {.error = error}}; }

BackwardRecipe tseng() {
  BackwardRecipe row = all_four(mxfp4_three_quarters(Rounding::stochastic), randomized_hadamard(64));
  row.signs_for_each_product = true;
  return row;
}

/// With one vector of signs for ever, the error of x rounded to nearest is the same in every draw.
BackwardRecipe nvidia(Signs signs = Signs::random) {
  return {.input = {.error = nvfp4_stochastic},
          .weight = {.rotation = {16, signs}, .error = nvfp4_stochastic, .source = Source::given, .other = nvfp4}};
}

/// HALO 0, 1, 2 (arXiv 2501.02625): the rotation of the features, and with 2 that of the tokens for the input gradient.
Recipe halo(int level, const char* format, const Quantizer& quantizer) {
  BackwardRecipe backward = error_only(quantizer);
  if (level == 2) backward.input.left = full_hadamard;
  return {fmt::format("halo{}-{}", level, format), both(quantizer, level == 0 ? Rotation{} : full_hadamard), backward};
}

std::vector<Recipe> make_rows() {
  const Quantizer fp8_history = delayed(per_tensor(e4m3), 1024);
  std::vector<Recipe> rows = {
      {.name = "fp32", .operands = DType::f32},
      {"bf16"},
      // FP8: E4M3 forward, E5M2 for the error.
      {"fp8", both(per_tensor(e4m3)), error_only(per_tensor(e5m2))},
      {"fp8-delayed", {{}, fp8_history, per_tensor(e4m3)}, error_only(delayed(per_tensor(e5m2), 1024))},
      {"fp8-row",
       both(per_row(e4m3)),
       {{.error = per_row(e5m2), .other = per_row(e4m3)}, {.error = per_row(e5m2), .other = per_row(e4m3)}}},
      // OCP MX, each operand along its own reduction axis.
      {"mxfp8", both(mx(e4m3, MxScale::ceil)), all_four(mx(e4m3, MxScale::ceil), {}, Source::given)},
      {"mxfp6", both(mx(e2m3, MxScale::ceil)), all_four(mx(e3m2, MxScale::ceil), {}, Source::given)},
      {"mxfp4-rtn", both(mx(e2m1, MxScale::floor)), all_four(mx(e2m1, MxScale::floor), {}, Source::given)},
      {"mxint8", both(mx(formats::mxint8, MxScale::floor))},
      {"mxfp4-rht-sr", {}, tseng()},
      // Quartet: its released code rounds the scale's exponent down, which the paper's own error contradicts.
      {"quartet", both(quartet(QuestScale::nearest), hadamard(32)),
       all_four(mxfp4_three_quarters(Rounding::stochastic), randomized_hadamard(32))},
      {"quartet-rtn", both(quartet(QuestScale::nearest), hadamard(32)),
       all_four(mxfp4_three_quarters(Rounding::nearest), randomized_hadamard(32))},
      {"quartet-pma", both(quartet(QuestScale::nearest), hadamard(32)),
       all_four(mxfp4_three_quarters(Rounding::nearest, mxfp4_alignment), randomized_hadamard(32))},
      {"quartet-floor", both(quartet(QuestScale::floor), hadamard(32)),
       all_four(mxfp4_three_quarters(Rounding::stochastic), randomized_hadamard(32))},
      {"quartet-exact", both(quartet(QuestScale::exact), hadamard(32)),
       all_four(mxfp4_three_quarters(Rounding::stochastic), randomized_hadamard(32))},
      // Quartet II: MS-EDEN backward.
      {"quartet2", both(four_over_six(nvfp4)), all_four(ms_eden(16), randomized_hadamard(128))},
      {"quartet2-rtn", both(nvfp4), all_four(ms_eden(16), randomized_hadamard(128))},
      {"quartet2-eden128", both(four_over_six(nvfp4)), all_four(ms_eden(128), randomized_hadamard(128))},
      {"quartet2-delayed", both(four_over_six(nvfp4)), all_four(delayed(ms_eden(16), 1), randomized_hadamard(128))},
      // Other NVFP4 recipes.
      {"nvfp4-nvidia", {{}, nvfp4, square(nvfp4)}, nvidia()},
      {"nvfp4-nvidia-4over6", {{}, four_over_six(nvfp4), square(four_over_six(nvfp4))}, nvidia()},
      {"nvfp4-nvidia-fixed-signs", {{}, nvfp4, square(nvfp4)}, nvidia(Signs::fixed)},  // as Transformer Engine has it
      {"nvfp4-h16", both(nvfp4, hadamard(16))},
      {"nvfp4-4over6-sr", both(four_over_six(nvfp4)), all_four(stochastic_four_over_six(), {})},
      {"tetrajet2", both(nvfp4), all_four(nvfp4_stochastic, randomized_hadamard(32))},
      {"nvint4", both(nvint4)},
      {"sfp4", both(sfp4())},
      {"quest-fp4", both(quest_fp4, hadamard(128))},
      {"quest-2of4-a4", {hadamard(128), quest(4), quest_int4_sparse()}},
  };
  for (const int level : {0, 1, 2}) {
    rows.push_back(halo(level, "int8", per_tensor(int8)));
    rows.push_back(halo(level, "fp8", per_tensor(e4m3)));
    rows.push_back(halo(level, "fp6", halo_fp6));
  }
  return rows;
}

struct Bits {
  int weight, input;
};
constexpr int not_quantized = 16;

/// Of "w4a4", "w4a16".
std::optional<Bits> bits_named(std::string_view text) {
  for (int weight = 1; weight <= 8; ++weight)
    for (const int input : {1, 2, 3, 4, 5, 6, 7, 8, not_quantized})
      if (text == fmt::format("w{}a{}", weight, input)) return Bits{weight, input};
  return {};
}

/// quest-w4a4, quest-w4a16-plain, lsq-w2a2, ste-w3a3.
std::optional<Recipe> member_of_family(const std::string& name) {
  constexpr std::string_view suffix = "-plain";
  const size_t dash = name.find('-');
  if (dash == std::string::npos) return {};
  const std::string_view family = std::string_view(name).substr(0, dash);
  std::string_view digits = std::string_view(name).substr(dash + 1);
  const bool is_quest = family == "quest", plain = is_quest && digits.ends_with(suffix);
  if (plain) digits.remove_suffix(suffix.size());
  const std::optional<Bits> bits = bits_named(digits);
  if (!bits) return {};
  const auto recipe_of = [&](auto&& quantizer) {
    const auto of_bits = [&](int count) { return count == not_quantized ? Quantizer{} : quantizer(count); };
    const Rotation rotation = is_quest && !plain ? hadamard(128) : Rotation{};
    return Recipe{name, {rotation, of_bits(bits->input), of_bits(bits->weight)}, {}};
  };
  if (is_quest) return recipe_of([&](int count) { return quest(count, plain ? 1.25f : 1.30f); });
  if (family == "lsq") return recipe_of([](int count) { return learned(count, LearnedStep::lsq); });
  if (family == "pact") return recipe_of([](int count) { return learned(count, LearnedStep::pact); });
  const bool has_levels = bits->weight > 1 && bits->input > 1;
  if (family == "ste" && has_levels) return recipe_of([](int count) { return per_row(formats::integer[count - 2]); });
  return {};
}

std::array<Quantizer*, 6> quantizers_of(Recipe& recipe) {
  return {&recipe.forward.input,        &recipe.forward.weight,        &recipe.backward.input.error,
          &recipe.backward.input.other, &recipe.backward.weight.error, &recipe.backward.weight.other};
}

}  // namespace

bool Recipe::quantizes() const {
  Recipe copy = *this;
  for (const Quantizer* quantizer : quantizers_of(copy))
    if (quantizer->quantizes()) return true;
  return forward.rotation || backward.input.rotation || backward.input.left || backward.weight.rotation;
}

bool Recipe::delays() const {
  Recipe copy = *this;
  return std::ranges::any_of(quantizers_of(copy), [](const Quantizer* quantizer) { return quantizer->history > 0; });
}

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> rows = make_rows();
  return rows;
}

std::vector<std::string> recipe_families() {
  return {"quest-wXaY[-plain] (1 to 8 bits, Y also 16)", "lsq-wXaY (1 to 8 bits, Y also 16)",
          "pact-wXaY (1 to 8 bits, Y also 16)", "ste-wXaY (2 to 8 bits, Y also 16)"};
}

std::optional<Recipe> recipe_named(const std::string& name) {
  for (const Recipe& recipe : recipes())
    if (recipe.name == name) return recipe;
  return member_of_family(name);
}

Recipe find_recipe(const std::string& name) {
  if (std::optional<Recipe> found = recipe_named(name)) return *found;
  std::vector<std::string> allowed;
  for (const Recipe& recipe : recipes()) allowed.push_back(recipe.name);
  for (const std::string& family : recipe_families()) allowed.push_back(family);
  throw Error({.kind = ErrorKind::configuration,
               .what = "unknown recipe",
               .where = "precision.recipe",
               .seen = name,
               .allowed = fmt::format("{}", fmt::join(allowed, ", "))});
}

Recipe combine(const Recipe& forward, const Recipe& backward) {
  if (forward.name == backward.name) return forward;
  if (forward.operands != backward.operands)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "fp32 has no parts that another recipe could take",
                 .where = "precision",
                 .seen = fmt::format("forward {}, backward {}", forward.name, backward.name),
                 .next = "take bf16 for the pass that is not quantized"});
  return {fmt::format("{}+{}", forward.name, backward.name), forward.forward, backward.backward, forward.operands};
}

Recipe without_rounding(Recipe recipe) {
  for (Quantizer* quantizer : quantizers_of(recipe)) *quantizer = {};
  recipe.name += " without rounding";
  recipe.operands = DType::f32;
  return recipe;
}

}  // namespace nibble
