// The linear operator at its edges: what it refuses, what is no number, statistics of earlier steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/quantizers.hpp"
#include "tensor/error.hpp"
#include "tests/quant/linear_operator.hpp"

namespace nibble {
namespace {

using reference::Matrix;

bool all_finite(const Matrix& x) {
  return std::ranges::all_of(x.values, [](float v) { return std::isfinite(v); });
}

TEST(LinearEdges, WidthsThatABlockOrRotationDoesNotDivideAreRefusedWithThoseThatWouldDo) {
  const struct {
    const char* recipe;
    int64_t tokens, in, out;
    const char *what, *seen, *next;
  } cases[] = {
      {"quartet", 128, 100, 128, "a rotation of 32 does not divide the input features", "100", "96 or 128 would do"},
      {"quartet2", 128, 128, 136, "a rotation of 128 does not divide the output features", "136",
       "128 or 256 would do"},
      {"quartet2", 64, 128, 128, "a rotation of 128 does not divide the tokens of a micro-batch", "64", "128 would do"},
      {"nvfp4-nvidia", 16, 24, 16, "a block of 16 does not divide the input features", "24", "16 or 32 would do"},
      {"mxfp8", 32, 32, 48, "a block of 32 does not divide the output features", "48", "32 or 64 would do"},
      {"fp8", 16, 20, 16, "a byte of packed masks and random numbers of 8 does not divide the input features", "20",
       "16 or 24 would do"},
      {"halo1-int8", 16, 184, 16, "no Hadamard matrix of this order is known here", "184",
       "the nearest widths that would do: 180 and 192"},
  };
  for (const auto& [recipe, tokens, in, out, what, seen, next] : cases) try {
      make_linear(find_recipe(recipe), {.name = "layers.3.down", .in = in, .out = out, .tokens = tokens});
      ADD_FAILURE() << recipe << " took it";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::configuration);
      EXPECT_EQ(error.detail().what, what);
      EXPECT_EQ(error.detail().seen, seen);
      EXPECT_EQ(error.detail().next, next);
      EXPECT_NE(error.detail().where.find("layers.3.down"), std::string::npos) << error.detail().where;
    }
}

TEST(LinearEdges, WithoutABackwardPassOnlyTheInputFeaturesMatter) {
  EXPECT_NO_THROW(make_linear(find_recipe("quartet2"), {.name = "head", .in = 128, .out = 130}));
}

TEST(LinearEdges, ScalesOfRowsAlongAReductionWhoseErrorIsQuantizedAreRefused) {
  const Recipe recipe = combine(find_recipe("quest-w4a4"), find_recipe("fp8"));
  EXPECT_THROW(make_linear(recipe, {.name = "down", .in = 128, .out = 128, .tokens = 128}), Error);
  EXPECT_THROW(combine(find_recipe("fp32"), find_recipe("fp8")), Error);
}

TEST(LinearEdges, WhatIsNoNumberReachesTheResultsOfEveryRecipe) {
  const LinearOperands good(128, 128, 128);
  LinearOperands x = good, w = good, dy = good;
  x.x.values[1234] = std::nanf(""), w.w.values[4321] = dy.dy.values[2345] = std::numeric_limits<float>::infinity();
  for (const Recipe& recipe : recipes()) {
    const std::unique_ptr<Linear> linear = make_linear(recipe, good.spec);
    const auto run = [&](const LinearOperands& operands) {
      return run_linear(*linear, operands, {.pass = Pass::training}, recipe.operands, DType::f32);
    };
    EXPECT_TRUE(all_finite(run(good).dw)) << recipe.name;
    linear->commit();  // from here on under the statistics of a step before
    const LinearResults of_x = run(x), of_w = run(w), of_dy = run(dy);
    EXPECT_FALSE(all_finite(of_x.y) || all_finite(of_x.dw)) << recipe.name << " of x";
    EXPECT_FALSE(all_finite(of_w.y) || all_finite(of_w.dx)) << recipe.name << " of w";
    EXPECT_FALSE(all_finite(of_dy.dx) || all_finite(of_dy.dw)) << recipe.name << " of dy";
  }
}

/// Quantizes its input under the largest of two steps before; its weights are the identity.
class DelayedLinear : public testing::Test {
 protected:
  DelayedLinear() : operands_(8, 16, 16) {
    Recipe recipe = find_recipe("bf16");
    recipe.forward.input = quantizers::delayed(quantizers::per_tensor(formats::e4m3), 2);
    linear_ = make_linear(recipe, operands_.spec);
    std::ranges::fill(operands_.w.values, 0.0f);
    for (int i = 0; i < 16; ++i) operands_.w.values[i * 16 + i] = 1;
    linear_->state(state_);
  }
  /// The largest result for an input of this largest magnitude.
  float run(float largest, Pass pass = Pass::training) {
    std::ranges::fill(operands_.x.values, 0.0f);
    operands_.x.values[5] = -largest;
    const Matrix y = run_linear(*linear_, operands_, {.pass = pass}, DType::bf16, DType::f32).y;
    return std::abs(std::ranges::min(y.values));
  }
  std::vector<float> history() const {
    const float* begin = state_.entries().at(0).tensor.as<float>();
    return {begin, begin + 2};
  }

  LinearOperands operands_;
  std::unique_ptr<Linear> linear_;
  StateList state_;
};

TEST_F(DelayedLinear, HasItsHistoryAsState) {
  ASSERT_EQ(state_.entries().size(), 1u);
  EXPECT_EQ(state_.entries()[0].name, "quantizers/layers.0.down/input/amax_history");
  EXPECT_EQ(history(), (std::vector<float>{0, 0}));
}

TEST_F(DelayedLinear, QuantizesUnderTheLargestOfStepsThatCounted) {
  EXPECT_EQ(run(3), 3) << "its own, while there is no other";
  EXPECT_EQ(run(4), 4) << "the step has not ended";
  linear_->commit();
  EXPECT_EQ(history(), (std::vector<float>{4, 0}));
  EXPECT_EQ(run(10), 4) << "saturates";
  linear_->commit();
  EXPECT_EQ(run(1), 10.0f / 448 * 44) << "44.8 is no value of E4M3";
  linear_->commit();
  EXPECT_EQ(history(), (std::vector<float>{1, 10}));
  EXPECT_EQ(run(10), 10);
}

TEST_F(DelayedLinear, TakesNoStatisticsOfRefusedStepsRecomputationEvaluationZerosAndInfinities) {
  run(7);
  linear_->discard();
  run(8, Pass::recomputing);
  run(9, Pass::evaluation);
  run(0);
  run(std::numeric_limits<float>::infinity());
  linear_->commit();
  EXPECT_EQ(history(), (std::vector<float>{0, 0}));
}

TEST_F(DelayedLinear, ShowsWhatAStepHasSeenForOtherRanksToRaise) {
  run(2);
  std::vector<float*> seen;
  linear_->statistics(seen);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(*seen[0], 2);
  *seen[0] = 6;
  linear_->commit();
  EXPECT_EQ(history(), (std::vector<float>{6, 0}));
}

TEST(LinearEdges, APhaseHasARecipeAndStateOfItsOwn) {
  const LinearOperands operands(128, 128, 256);
  const Recipe first = find_recipe("fp8-delayed"), last = find_recipe("bf16");
  const std::unique_ptr<Linear> phased = make_linear({{0, first}, {10, last}}, operands.spec);
  for (const auto& [step, recipe] : {std::pair{9, first}, {10, last}}) {
    const LinearCall call{.step = step, .pass = Pass::training};
    const LinearResults seen = run_linear(*phased, operands, call, DType::bf16, DType::f32),
                        expected = run_linear(recipe, operands, call);
    EXPECT_EQ(seen.y.values, expected.y.values);
    EXPECT_EQ(seen.dx.values, expected.dx.values);
    EXPECT_EQ(seen.dw.values, expected.dw.values);
  }
  StateList state;
  phased->state(state);
  EXPECT_EQ(state.entries().at(0).name, "quantizers/layers.0.down/phase_0/input/amax_history");
}

}  // namespace
}  // namespace nibble
