// What a linear layer leaves of its input: less memory than the input, and the bits of a layer that keeps it.
#include "quant/saved_input.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/quantizers.hpp"
#include "tests/quant/linear_operator.hpp"

namespace nibble {
namespace {

using reference::Matrix;

const LinearCall call{.step = 5, .micro_batch = 2, .pass = Pass::training};

size_t saved_bytes(const Linear& linear, int64_t tokens) {
  LinearSaved saved;
  return Arena("saved", [&](Arena& arena) { linear.take_saved(arena, tokens, saved); }).bytes();
}

/// With dw's operand in few bits although y's is kept in none, or is another.
Recipe with_other(Recipe recipe, const Quantizer& other, Source source = Source::given) {
  recipe.backward.weight.source = source;
  recipe.backward.weight.other = other;
  recipe.name += " and another operand";
  return recipe;
}

TEST(SavedInput, IsCodesWhereverAProductMultipliesSome) {
  for (const char* name : {"fp8", "quartet", "quartet2", "tetrajet2", "halo2-int8", "quest-w4a4", "fp8-row"})
    EXPECT_EQ(saved_input(find_recipe(name), {}), SavedInput::multiplied) << name;
  for (const char* name : {"mxfp8", "mxfp6", "mxfp4-rtn", "mxfp4-rht-sr", "nvfp4-nvidia", "nvfp4-nvidia-4over6",
                           "nvfp4-nvidia-fixed-signs"})
    EXPECT_EQ(saved_input(find_recipe(name), {}), SavedInput::other) << name;
  for (const char* name : {"bf16", "quest-w4a16", "ste-w8a16"})
    EXPECT_EQ(saved_input(find_recipe(name), {}), SavedInput::given) << name;
  EXPECT_EQ(saved_input(find_recipe("mxfp8"), {.name = "down", .input_stays = true}), SavedInput::given);
}

TEST(SavedInput, TakesTheBitsOfItsFormatAndNoMore) {
  const struct {
    const char* recipe;
    double bits;
  } cases[] = {{"mxfp8", 8.25},       {"mxfp6", 6.25},        {"mxfp4-rtn", 4.25}, {"mxfp4-rht-sr", 4.25},
               {"nvfp4-nvidia", 4.5}, {"quartet2", 4.5},      {"quartet", 5.25},   {"fp8", 8},
               {"quest-w4a4", 5},     {"quest-w3a3-plain", 4}};
  for (const auto& [recipe, bits] : cases) {
    const int64_t tokens = 512, in = 1024;
    const auto linear = make_linear(find_recipe(recipe), {.name = "down", .in = in, .out = 128, .tokens = tokens});
    EXPECT_NEAR(8.0 * static_cast<double>(saved_bytes(*linear, tokens)) / (tokens * in), bits, 0.07) << recipe;
  }
}

TEST(SavedInput, WithoutABackwardPassOrWhereTheInputStaysTakesNothing) {
  for (const Recipe& recipe : recipes()) {
    const LinearSpec spec{.name = "down", .in = 128, .out = 128, .tokens = 128, .input_stays = true};
    const auto linear = make_linear(recipe, spec);
    EXPECT_EQ(saved_bytes(*linear, 128), 0u) << recipe.name;
    EXPECT_TRUE(linear->keeps_input()) << recipe.name;
  }
}

TEST(SavedInput, OfRecipesPutTogetherHasTheBitsOfTheInputItself) {
  using namespace quantizers;
  const auto together = [](const char* forward, const char* backward) {
    return combine(find_recipe(forward), find_recipe(backward));
  };
  Recipe integers = with_other(find_recipe("halo0-int8"), per_tensor(formats::int4)),
         of_integers = find_recipe("halo0-int8");
  of_integers.forward.input = per_tensor(formats::int4);
  Recipe sparse = with_other(find_recipe("mxfp4-rht-sr"), nvfp4, Source::multiplied);
  sparse.forward.input = quest_int4_sparse();
  const Recipe all[] = {together("quest-w4a4", "mxfp8"),
                        together("quartet", "nvfp4-nvidia"),
                        together("halo1-int8", "mxfp6"),
                        together("sfp4", "mxfp4-rht-sr"),
                        with_other(find_recipe("fp8-row"), per_row(formats::e4m3)),
                        with_other(find_recipe("nvfp4-nvidia"), delayed(nvfp4, 2)),
                        with_other(find_recipe("bf16"), stochastic_four_over_six()),
                        integers,
                        of_integers,
                        sparse};
  for (const Recipe& recipe : all) {
    LinearOperands operands(128, 128, 256);
    const auto saving = make_linear(recipe, operands.spec);
    operands.spec.input_stays = true;
    const auto keeping = make_linear(recipe, operands.spec);
    EXPECT_FALSE(saving->keeps_input()) << recipe.name;
    for (int step = 0; step < 2; ++step) {  // the second one under the statistics of the first
      const LinearResults saved = run_linear(*saving, operands, call, DType::bf16, DType::f32),
                          kept = run_linear(*keeping, operands, call, DType::bf16, DType::f32);
      EXPECT_EQ(saved.y.values, kept.y.values) << recipe.name;
      EXPECT_EQ(saved.dx.values, kept.dx.values) << recipe.name;
      EXPECT_EQ(saved.dw.values, kept.dw.values) << recipe.name;
      saving->commit(), keeping->commit();
      for (float& x : operands.x.values) x *= 0.5f;
    }
  }
}

TEST(SavedInput, RestoresTheSameBitsAfterARecomputedForwardPassWhichTakesNoStatisticsAgain) {
  const Recipe recipe = with_other(find_recipe("nvfp4-nvidia"), quantizers::delayed(quantizers::nvfp4, 2));
  LinearOperands operands(128, 128, 256);
  const auto linear = make_linear(recipe, operands.spec);
  std::vector<float*> seen;
  linear->statistics(seen);
  ASSERT_EQ(seen.size(), 1u);
  const LinearResults once = run_linear(*linear, operands, call, DType::bf16, DType::f32);
  const float largest = *seen[0];
  EXPECT_GT(largest, 0);
  LinearCall again = call;
  again.pass = Pass::recomputing;
  EXPECT_EQ(run_linear(*linear, operands, again, DType::bf16, DType::f32).dw.values, once.dw.values);
  for (float& x : operands.x.values) x *= 2;
  run_linear(*linear, operands, again, DType::bf16, DType::f32);
  EXPECT_EQ(*seen[0], largest);
}

TEST(SavedInput, IsObservedOnceAsTheOperandOfEachProduct) {
  struct Counter : OperandObserver {
    std::vector<std::string> places;
    void observe(const OperandPlace& place, const OperandError&, const QuantizationCounts&) override {
      places.push_back(std::string(place.product) + " " + place.operand);
    }
  };
  for (const char* name : {"nvfp4-nvidia", "mxfp8"})
    for (const bool stays : {false, true}) {
      LinearOperands operands(128, 128, 256);
      operands.spec.input_stays = stays;
      Counter counter;
      LinearCall observed = call;
      observed.observer = &counter;
      run_linear(find_recipe(name), operands, observed);
      std::ranges::sort(counter.places);
      std::vector<std::string> expected = {"dw dy", "dw x", "dx dy", "dx w", "y w", "y x"};
      if (name == std::string("nvfp4-nvidia")) std::erase(expected, "dx w");
      EXPECT_EQ(counter.places, expected) << name << stays;
    }
}

TEST(SavedInput, IsTheInputOfAllPhasesWhereOneReadsIt) {
  const LinearSpec spec{.name = "down", .in = 128, .out = 128, .tokens = 128};
  const Recipe mx = find_recipe("mxfp8"), nv = find_recipe("nvfp4-nvidia"), plain = find_recipe("bf16");
  const auto in_codes = make_linear({{0, mx}, {10, nv}}, spec), with_plain = make_linear({{0, mx}, {10, plain}}, spec);
  EXPECT_FALSE(in_codes->keeps_input());
  EXPECT_GT(saved_bytes(*in_codes, 128), 0u);
  EXPECT_TRUE(with_plain->keeps_input());
  EXPECT_EQ(saved_bytes(*with_plain, 128), 0u);
}

// Both gradients multiply one quantized error, but the weight gradient's other operand is not y's.
TEST(SavedInput, IsQuantizedAnewAlsoBesideAnErrorThatBothGradientsShare) {
  const SlowRecipe slow{.name = "shared error",
                        .input = "e4m3_by_tensor",
                        .weight = "e4m3_by_tensor",
                        .by_input = {.error = "e5m2_by_tensor"},
                        .by_weight = {.error = "e5m2_by_tensor", .other = "int4_by_tensor"}};
  Recipe recipe = find_recipe("fp8");
  recipe.backward.weight.other = quantizers::per_tensor(formats::int4);
  const LinearOperands operands(128, 128, 256);
  const Matrix seen = run_linear(recipe, operands, call).dw,
               expected = slow_linear(slow, operands.spec, call, operands.x, operands.w, operands.dy).dw;
  for (size_t i = 0; i < seen.values.size(); ++i) ASSERT_NEAR(seen.values[i], expected.values[i], 1e-3) << i;
}

}  // namespace
}  // namespace nibble
