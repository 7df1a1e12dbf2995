// The linear operator of every recipe against formulas in double (slow_linear.hpp).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/error.hpp"
#include "tests/quant/linear_operator.hpp"
#include "tests/quant/slow_linear.hpp"

namespace nibble {
namespace {

using reference::Matrix;

const LinearCall call{.step = 5, .micro_batch = 2, .pass = Pass::training};

/// ||a - b|| / ||b||.
double relative_error(const Matrix& a, const Matrix& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.values.size(); ++i) {
    difference += std::pow(double{a.values[i]} - b.values[i], 2);
    norm += std::pow(double{b.values[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

/// <a, b> / <b, b>.
double projection(const Matrix& a, const Matrix& b) {
  double product = 0, norm = 0;
  for (size_t i = 0; i < b.values.size(); ++i) {
    product += double{a.values[i]} * b.values[i];
    norm += std::pow(double{b.values[i]}, 2);
  }
  return product / norm;
}

std::vector<std::string> names_of_all() {
  std::vector<std::string> names;
  for (const Recipe& recipe : recipes()) names.push_back(recipe.name);
  for (const SlowRecipe& recipe : slow_recipes()) names.push_back(recipe.name);
  std::ranges::sort(names);
  names.erase(std::ranges::unique(names).begin(), names.end());
  return names;
}

const auto test_name = [](const auto& one) {
  std::string name = one.param;
  std::ranges::replace(name, '-', '_');
  return name;
};

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, WithoutRoundingIsThePlainLayer) {
  const Recipe recipe = without_rounding(find_recipe(GetParam()));
  for (const auto& [tokens, in, out] : {std::array{128, 128, 256}, {256, 128, 128}}) {
    const LinearOperands operands(tokens, in, out);
    const LinearResults seen = run_linear(recipe, operands, call), plain = plain_linear(operands);
    EXPECT_LT(relative_error(seen.y, plain.y), 1e-5);
    EXPECT_LT(relative_error(seen.dx, plain.dx), 1e-5);
    EXPECT_LT(relative_error(seen.dw, plain.dw), 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, EveryRecipe, testing::ValuesIn(names_of_all()), test_name);

TEST(Linear, FullWidthRotationsCancelAtWidthsThatAreNoPowersOfTwo) {
  for (const char* name : {"halo1-int8", "halo2-fp8"}) {
    const LinearOperands operands(40, 28 * 512, 24);
    const LinearResults seen = run_linear(without_rounding(find_recipe(name)), operands, call),
                        plain = plain_linear(operands);
    EXPECT_LT(relative_error(seen.y, plain.y), 1e-5);
    EXPECT_LT(relative_error(seen.dx, plain.dx), 1e-5);
    EXPECT_LT(relative_error(seen.dw, plain.dw), 1e-5);
  }
}

class QuantizedRecipe : public testing::TestWithParam<std::string> {};

TEST_P(QuantizedRecipe, MultipliesWhatItsFormulasSay) {
  const SlowRecipe& slow = *std::ranges::find(slow_recipes(), GetParam(), &SlowRecipe::name);
  const LinearOperands operands(128, 128, 256);
  const LinearResults seen = run_linear(find_recipe(slow.name), operands, call),
                      expected = slow_linear(slow, operands.spec, call, operands.x, operands.w, operands.dy);
  EXPECT_LT(relative_error(seen.y, expected.y), 1e-5);
  EXPECT_LT(relative_error(seen.dx, expected.dx), 1e-5);
  EXPECT_LT(relative_error(seen.dw, expected.dw), 1e-5);
}

TEST_P(QuantizedRecipe, HasTheSameBitsWhetherItSavesCodesOrReadsTheInputAgain) {
  LinearOperands operands(128, 128, 256);
  const LinearResults saved = run_linear(find_recipe(GetParam()), operands, call);
  operands.spec.input_stays = true;
  const LinearResults again = run_linear(find_recipe(GetParam()), operands, call);
  EXPECT_EQ(saved.y.values, again.y.values);
  EXPECT_EQ(saved.dx.values, again.dx.values);
  EXPECT_EQ(saved.dw.values, again.dw.values);
}

std::vector<std::string> names_of_slow() {
  std::vector<std::string> names;
  for (const SlowRecipe& recipe : slow_recipes()) names.push_back(recipe.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Recipes, QuantizedRecipe, testing::ValuesIn(names_of_slow()), test_name);

TEST(Linear, EveryRecipeHasFormulas) {
  const std::vector<std::string> slow = names_of_slow();
  for (const Recipe& recipe : recipes())
    EXPECT_TRUE(recipe.name == "fp32" || std::ranges::count(slow, recipe.name) == 1) << recipe.name;
}

// Forgetting 16/9, what two operands of three quarters need, would leave 0.5625.
TEST(Linear, ProductsOfThreeQuartersHaveTheirSizeBack) {
  const LinearOperands operands(128, 128, 256);
  Recipe recipe = find_recipe("mxfp4-rht-sr");
  for (GradientRecipe* gradient : {&recipe.backward.input, &recipe.backward.weight})
    gradient->error.rounding = gradient->other.rounding = Rounding::nearest;
  const LinearResults seen = run_linear(recipe, operands, call), plain = plain_linear(operands);
  EXPECT_NEAR(projection(seen.dx, plain.dx), 1, 0.025);
  EXPECT_NEAR(projection(seen.dw, plain.dw), 1, 0.025);
}

TEST(Linear, WritesGradientsOfBf16RoundedOnce) {
  LinearOperands operands(128, 128, 256);
  for (const char* name : {"quartet2", "quest-w4a4", "halo2-int8", "sfp4"}) {
    const LinearResults wide = run_linear(find_recipe(name), operands, call),
                        narrow = run_linear(find_recipe(name), operands, call, DType::bf16);
    for (size_t i = 0; i < wide.dx.values.size(); ++i) {
      ASSERT_EQ(float{bf16(wide.dx.values[i])}, narrow.dx.values[i]) << name;
    }
    for (size_t i = 0; i < wide.y.values.size(); ++i) {
      ASSERT_EQ(float{bf16(wide.y.values[i])}, narrow.y.values[i]) << name;
    }
  }
}

}  // namespace
}  // namespace nibble
