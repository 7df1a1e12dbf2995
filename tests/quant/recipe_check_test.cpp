// Combinations of parts without meaning are refused, all rows have one, and formats that users describe live on.
#include "quant/recipe_check.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "quant/quantizers.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using namespace quantizers;

Recipe forward_of(const Quantizer& quantizer, Rotation rotation = {}) {
  return {"mine", {rotation, quantizer, quantizer}, {}};
}
Recipe backward_of(const GradientRecipe& gradient) { return {"mine", {}, {gradient, gradient}}; }

TEST(RecipeCheck, EveryRowHasAMeaningAndOneIsBiased) {
  for (const Recipe& recipe : recipes())
    EXPECT_EQ(check(recipe).size(), recipe.name == "nvfp4-4over6-sr" ? 4u : 0u) << recipe.name;
  for (const char* name : {"quest-w1a1", "quest-w4a16-plain", "ste-w3a8"})
    EXPECT_TRUE(check(find_recipe(name)).empty());
  EXPECT_NE(check(find_recipe("nvfp4-4over6-sr")).front().find("65/64"), std::string::npos);
}

TEST(RecipeCheck, FamiliesHaveTheMembersTheySay) {
  for (const char* name : {"quest-w1a1", "quest-w8a16-plain", "lsq-w1a2", "pact-w4a16", "ste-w2a8", "ste-w3a16"}) {
    const std::optional<Recipe> recipe = recipe_named(name);
    ASSERT_TRUE(recipe) << name;
    EXPECT_EQ(recipe->name, name);
  }
  const Recipe mixed = find_recipe("quest-w2a16");
  EXPECT_EQ(mixed.forward.weight, quest(2));
  EXPECT_FALSE(mixed.forward.input.quantizes());
  EXPECT_EQ(mixed.forward.rotation, (Rotation{128, Signs::none}));
  EXPECT_FALSE(find_recipe("quest-w2a16-plain").forward.rotation);
  for (const char* name :
       {"", "quest", "quest-", "quest-w4", "quest-w9a4", "quest-w0a4", "quest-w4a9", "quest-w16a4", "quest-w04a4",
        "quest-w4a4-", "quest-w4a4-plain-plain", "lsq-w4a4-plain", "ste-w1a4", "ste-w4a1", "Quest-w4a4", "fp8-w4a4"})
    EXPECT_FALSE(recipe_named(name)) << name;
}

TEST(RecipeCheck, CombinationsWithoutMeaningAreRefused) {
  const auto changed = [](Quantizer quantizer, const std::function<void(Quantizer&)>& change) {
    change(quantizer);
    return quantizer;
  };
  const auto refused = [](const Recipe& recipe, const char* what, const char* place) {
    expect_error(ErrorKind::configuration, {what, place, "recipe mine"}, [&] { check(recipe); });
  };
  const auto refused_forward = [&](const Quantizer& quantizer, const char* what) {
    refused(forward_of(quantizer), what, "forward.input");
  };
  refused_forward(changed(nvfp4, [](Quantizer& q) { q.mask = MaskRule::trust, q.mask_width = 1; }), "trust mask");
  refused_forward(changed(mx(formats::e2m1, MxScale::floor), [](Quantizer& q) { q.correction_group = 32; }),
                  "a correction goes into E4M3 scales");
  refused_forward(changed(nvfp4, [](Quantizer& q) { q.correction_group = 24; }), "a correction spans whole blocks");
  refused_forward(changed(nvfp4, [](Quantizer& q) { q.correction_group = 16 * 17; }),
                  "a correction spans whole blocks");
  refused_forward(changed(quest(4), [](Quantizer& q) { q.rounding = Rounding::stochastic; }), "half-odd");
  refused_forward(changed(per_row(formats::int8), [](Quantizer& q) { q.shrink = 0.75f; }), "f32 scale has its divisor");
  refused_forward(changed(nvfp4, [](Quantizer& q) { q.group = 12; }), "size is out of range");
  refused_forward(changed(nvfp4, [](Quantizer& q) { q.element = nullptr; }), "without an element format");
  refused_forward(changed(nvint4, [](Quantizer& q) { q.choice = BlockChoice::four_over_six; }), "4 and 6");
  refused_forward(changed(per_row(formats::int8), [](Quantizer& q) { q.history = 4; }), "delayed");
  refused_forward(changed(nvfp4, [](Quantizer& q) { q.round_up = true; }), "powers of two");
  refused_forward(changed(nvfp4, [](Quantizer& q) { q.extent = Extent::row; }), "no blocks");
  refused(forward_of(nvfp4, {32, Signs::random}), "without signs", "forward.rotation");
  refused(forward_of(nvfp4, {30, Signs::none}), "no Hadamard transform", "forward.rotation");
  refused(backward_of({.error = quest(4)}), "no gradient to mask", "backward.input.error");
  refused(backward_of({.left = {Rotation::full, Signs::none}}), "from the left", "backward.weight");
}

TEST(LastingFormat, IsOneForEveryDescription) {
  EXPECT_EQ(&lasting_format(formats::e2m1), &formats::e2m1);
  std::string name = "e2m2";
  const ElementFormat described{.name = name, .exponent_bits = 2, .mantissa_bits = 2, .min_exponent = 0, .max = 7};
  const ElementFormat& first = lasting_format(described);
  name = "gone";
  EXPECT_EQ(first.name, "e2m2");
  const ElementFormat again{.name = "e2m2", .exponent_bits = 2, .mantissa_bits = 2, .min_exponent = 0, .max = 7};
  EXPECT_EQ(&lasting_format(again), &first);
  const auto refused = [](const ElementFormat& format, const char* what) {
    expect_error(ErrorKind::configuration, {what}, [&] { lasting_format(format); });
  };
  refused({.name = "e2m2", .exponent_bits = 2, .mantissa_bits = 2, .min_exponent = 0, .max = 6.5f}, "no value");
  refused({.name = "e2m1", .exponent_bits = 2, .mantissa_bits = 1, .min_exponent = 0, .max = 4}, "another format");
  refused({.name = "e6m4", .exponent_bits = 6, .mantissa_bits = 4, .min_exponent = 0, .max = 4}, "one byte");
}

}  // namespace
}  // namespace nibble
