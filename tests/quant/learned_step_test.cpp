// Steps that training learns: where they begin, their gradients, and what a layer makes of them.
#include "quant/learned_step.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "quant/quantizers.hpp"
#include "quant/recipe_check.hpp"
#include "tests/quant/linear_operator.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using reference::Matrix;

Matrix made_of(int64_t rows, int64_t depth, const std::function<double(int)>& element) {
  Matrix x{rows, depth, {}};
  for (int i = 0; i < rows * depth; ++i) x.values.push_back(static_cast<float>(element(i)));
  return x;
}

float gradient_of(const Quantizer& quantizer, double step, const Matrix& x, const Matrix& gradient, int threads = 2) {
  Stream stream(threads);
  return log_step_gradient(stream, quantizer, static_cast<float>(std::log(step)), tensor_of(x, DType::f32),
                           tensor_of(gradient, DType::f32));
}

/// LSQ's and PACT's formulas for half-odd levels, in double.
struct SlowStep {
  int bits;
  LearnedStep how;
  double step;

  double outermost() const { return ((1 << bits) - 1) / 2.0; }
  bool within(double x) const { return std::abs(x / step) < outermost(); }
  double quantized(double x) const { return step * std::clamp(std::floor(x / step) + 0.5, -outermost(), outermost()); }
  double log_gradient(const Matrix& x, const Matrix& gradient) const {
    double sum = 0;
    for (size_t i = 0; i < x.values.size(); ++i) {
      const double of_x = x.values[i];
      if (!within(of_x)) sum += gradient.values[i] * std::copysign(outermost(), of_x);
      else if (how == LearnedStep::lsq) sum += gradient.values[i] * (quantized(of_x) - of_x) / step;
    }
    const double share =
        how == LearnedStep::lsq ? 1 / std::sqrt(outermost() * static_cast<double>(x.values.size())) : 1;
    return step * share * sum;
  }
};

TEST(LearnedStep, BeginsAtTwiceTheMeanMagnitudeOverTheRootOfTheOutermostLevel) {
  Stream stream(2);
  const Matrix x = made_of(3, 5, [](int i) { return i % 2 == 0 ? 0.5 * i : -0.25 * i; });
  double sum = 0;
  for (const float v : x.values) sum += std::abs(v);
  for (const int bits : {1, 2, 4, 8}) {
    const Quantizer quantizer = quantizers::learned(bits, LearnedStep::lsq);
    const double expected = 2 * sum / 15 / std::sqrt(((1 << bits) - 1) / 2.0);
    EXPECT_NEAR(initial_log_step(stream, quantizer, tensor_of(x, DType::f32)), std::log(expected), 1e-6);
  }
  const OwnedTensor zeros(DType::bf16, 2, 8);
  EXPECT_TRUE(std::isfinite(initial_log_step(stream, quantizers::learned(4, LearnedStep::pact), zeros)));
}

// PyTorch 2.15.0 (CPU): torch._fake_quantize_learnable_per_tensor_affine(x, scale 0.28, zero point 0, -7, 7,
// grad_factor 1 / sqrt(96 * 7)), its gradient times the scale. It counts what rounds onto the outermost level as
// within; x has no such values between 7 and 7.5 steps.
TEST(LearnedStep, GradientOfLsqIsPyTorchs) {
  const Matrix x = made_of(8, 12, [](int i) {
    const int k = i * 37 % 101 - 50;
    return (std::abs(k) == 32 || std::abs(k) == 33 ? std::copysign(31, k) : k) / 16.0;
  });
  const Matrix gradient = made_of(8, 12, [](int i) { return (i * 53 % 89 - 44) / 32.0; });
  Quantizer int4 = quantizers::learned(4, LearnedStep::lsq);
  int4.element = &formats::int4;
  EXPECT_NEAR(gradient_of(int4, 0.28, x, gradient), 0.19118243, 2e-6);
}

TEST(LearnedStep, GradientsAreTheFormulasWithAnyNumberOfThreads) {
  const Matrix x = normal_matrix(37, 51, 4, false), gradient = normal_matrix(37, 51, 5, false);
  for (const LearnedStep how : {LearnedStep::lsq, LearnedStep::pact})
    for (const int bits : {1, 3, 4, 8})
      for (const double step : {0.02, 0.3, 1.7}) {
        const double expected = SlowStep{bits, how, step}.log_gradient(x, gradient);
        const float seen = gradient_of(quantizers::learned(bits, how), step, x, gradient);
        EXPECT_NEAR(seen, expected, 1e-4 * std::max(1.0, std::abs(expected))) << bits << " bits, step " << step;
        EXPECT_EQ(seen, gradient_of(quantizers::learned(bits, how), step, x, gradient, 1));
      }
}

TEST(LearnedStep, ALayerRoundsMasksAndTellsItsStepsWhatTheyChange) {
  const LinearOperands operands(24, 40, 32);
  for (const char* name : {"lsq-w3a4", "pact-w3a4", "lsq-w3a16"}) {
    const Recipe recipe = find_recipe(name);
    const LearnedStep how = recipe.forward.weight.learned;
    const bool inputs = recipe.forward.input.quantizes();
    const double of_x = 0.3, of_w = 0.4;
    const SlowStep x_step{4, how, of_x}, w_step{3, how, of_w};
    std::vector<float> logarithms = {static_cast<float>(std::log(of_x)), static_cast<float>(std::log(of_w))},
                       gradients = {0, 0};
    const LinearCall call{.pass = Pass::training,
                          .steps = Tensor(logarithms.data(), 1, 2),
                          .step_gradients = Tensor(gradients.data(), 1, 2)};
    const LinearResults seen = run_linear(recipe, operands, call);

    Matrix x_hat = operands.x, w_hat = operands.w;
    if (inputs)
      for (float& v : x_hat.values) v = static_cast<float>(x_step.quantized(v));
    for (float& v : w_hat.values) v = static_cast<float>(w_step.quantized(v));
    const Matrix y = slow_product(x_hat, w_hat), dx = slow_product(operands.dy, w_hat.transposed()),
                 dw = slow_product(operands.dy.transposed(), x_hat.transposed());
    const auto expect_near = [&](const Matrix& a, const Matrix& b, const std::function<bool(size_t)>& passes) {
      for (size_t i = 0; i < a.values.size(); ++i)
        ASSERT_NEAR(a.values[i], passes(i) ? b.values[i] : 0, 2e-5 * std::max(1.0f, std::abs(b.values[i]))) << name;
    };
    expect_near(seen.y, y, [](size_t) { return true; });
    expect_near(seen.dx, dx, [&](size_t i) { return !inputs || x_step.within(operands.x.values[i]); });
    expect_near(seen.dw, dw, [&](size_t i) { return w_step.within(operands.w.values[i]); });
    EXPECT_NEAR(gradients[0], inputs ? x_step.log_gradient(operands.x, dx) : 0, 1e-3) << name;
    EXPECT_NEAR(gradients[1], w_step.log_gradient(operands.w, dw), 1e-3) << name;
    EXPECT_GT(std::abs(gradients[1]), 2e-3) << name;
  }
}

// Calibration sets them; whichever phase learns.
TEST(LearnedStep, OfAPhaseThatBeginsLaterIsCalibratedToo) {
  const LinearOperands operands(16, 32, 16);
  Stream stream(1);
  const OwnedTensor x = tensor_of(operands.x, DType::bf16), w = tensor_of(operands.w, DType::bf16),
                    y(DType::bf16, 16, 16);
  const std::vector<Precision::Phase> phases = {{0, find_recipe("bf16")}, {10, find_recipe("lsq-w4a4")}};
  const std::unique_ptr<Linear> linear = make_linear(phases, operands.spec);
  ASSERT_TRUE(linear->learns());
  std::vector<float> logarithms = {0, 0};
  const OwnedTensor scratch(DType::u8, 1, static_cast<int64_t>(linear->scratch_bytes(stream, 16)));
  linear->forward(stream, {.pass = Pass::calibrating, .steps = Tensor(logarithms.data(), 1, 2)}, x, w, y, {}, nullptr,
                  scratch);
  const Quantizer quantizer = find_recipe("lsq-w4a4").forward.weight;
  EXPECT_EQ(logarithms[0], initial_log_step(stream, quantizer, x));
  EXPECT_EQ(logarithms[1], initial_log_step(stream, quantizer, w));
}

TEST(LearnedStep, HasNoMeaningInGradientsBlocksAndRotatedBases) {
  const Quantizer lsq = quantizers::learned(4, LearnedStep::lsq);
  const auto refused = [](const Recipe& recipe, const char* what) {
    expect_error(ErrorKind::configuration, {what, "recipe mine"}, [&] { check(recipe); });
  };
  EXPECT_TRUE(check(find_recipe("lsq-w2a3")).empty());
  EXPECT_TRUE(check(find_recipe("pact-w1a16")).empty());
  refused({"mine", {{32, Signs::none}, lsq, lsq}, {}}, "not rotated");
  refused({"mine", {}, {{.error = lsq}, {}}}, "no gradient to mask");
  Quantizer rows = lsq;
  rows.extent = Extent::row;
  refused({"mine", {{}, rows, lsq}, {}}, "a learned step is all of its tensor's scale");
  Quantizer int8 = lsq, sparse = lsq;
  int8.element = &formats::int8;
  int8.mask_width = formats::int8.max;
  EXPECT_TRUE(check({"mine", {{}, int8, lsq}, {}}).empty());
  int8.rounding = Rounding::stochastic;
  refused({"mine", {{}, int8, lsq}, {}}, "a learned step is all of its tensor's scale");
  sparse.sparsity = Sparsity::two_of_four_pairs;
  refused({"mine", {{}, sparse, lsq}, {}}, "a learned step is all of its tensor's scale");
}

}  // namespace
}  // namespace nibble
