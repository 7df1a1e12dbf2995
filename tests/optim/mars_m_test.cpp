#include "optim/mars_m.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tensor/error.hpp"
#include "tests/optim/matrices.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Matrix;
using testing::Parameters;

// Against the formulas in double; gradients are clipped at first, and not when they have become small.
TEST(MarsM, TenStepsAsInDouble) {
  Stream stream(2);
  const std::vector<testing::Shape> shapes = {{12, 40, true}, {33, 17, false}, {24, 24, true}};
  const Parameters parameters(shapes, DType::bf16);
  Draws draw(6);
  MarsM optimizer(parameters.list, {.newton_schulz = {.operands = DType::f32}});
  std::vector<Matrix> weights, momenta, last;
  for (const OptimizedParameter& parameter : parameters.list) {
    for (int64_t j = 0; j < parameter.master.size(); ++j) parameter.master.as<float>()[j] = draw();
    weights.emplace_back(parameter.master);
    momenta.emplace_back(parameter.info->rows, parameter.info->cols);
    last.push_back(momenta.back());
  }
  int clipped = 0;
  for (int64_t step = 1; step <= 10; ++step) {
    const double rate = 1e-2 * static_cast<double>(step) / 10, size = std::pow(0.5, step);
    for (size_t i = 0; i < shapes.size(); ++i) {
      const Tensor& memory = parameters.list[i].gradient;
      for (int64_t j = 0; j < memory.size(); ++j) memory.as<float>()[j] = static_cast<float>(size) * draw();
      const Matrix gradient = 0.5 * Matrix(memory);
      Matrix c = gradient + 0.025 * 0.95 / 0.05 * (gradient - last[i]);
      last[i] = gradient;
      if (c.norm() > 1) {
        ++clipped;
        c = 1 / c.norm() * c;
      }
      momenta[i] = 0.95 * momenta[i] + 0.05 * c;
      const Matrix o = testing::newton_schulz(momenta[i], NewtonSchulzTable::classic, 5);
      const auto longer = static_cast<double>(std::max(shapes[i].rows, shapes[i].cols));
      weights[i] = (shapes[i].decay ? 1 - rate * 0.1 : 1) * weights[i] - rate * 0.2 * std::sqrt(longer) * o;
    }
    optimizer.step(stream, {.step = step, .learning_rate = rate, .gradient_scale = 0.5});
  }
  EXPECT_GT(clipped, 3);
  EXPECT_LT(clipped, 27);
  for (size_t i = 0; i < shapes.size(); ++i) {
    const Matrix seen(parameters.list[i].master);
    for (size_t j = 0; j < seen.values.size(); ++j) ASSERT_NEAR(seen.values[j], weights[i].values[j], 1e-5) << i;
  }
}

TEST(MarsM, StateHasTheParametersShapes) {
  const Parameters parameters({{5, 7, true}}, DType::bf16);
  MarsM optimizer(parameters.list, {});
  StateList list;
  optimizer.state(list);
  ASSERT_EQ(list.entries().size(), 2u);
  EXPECT_EQ(list.entries()[1].name, "optimizer/last_gradient/parameter0");
  EXPECT_EQ(list.entries()[1].rows, 5);
  EXPECT_EQ(list.entries()[1].cols, 7);
  EXPECT_EQ(list.entries()[1].tensor.size(), 35);
}

TEST(MarsM, ConstantsOutOfRangeAreRefused) {
  const Parameters parameters({{2, 2}}, DType::f32);
  EXPECT_THROW(MarsM(parameters.list, {.momentum = 1}), Error);
  EXPECT_THROW(MarsM(parameters.list, {.gamma = -1}), Error);
  EXPECT_THROW(MarsM(parameters.list, {.weight_decay = std::nan("")}), Error);
  EXPECT_THROW(MarsM(parameters.list, {.newton_schulz = {.steps = 0}}), Error);
}

}  // namespace
}  // namespace nibble
