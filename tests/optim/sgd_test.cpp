#include "optim/sgd.hpp"

#include <gtest/gtest.h>

#include <array>

#include "tensor/error.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Parameters;

/// Twenty steps of six weights, learning rate t / 200, decay 0.1.
std::array<float, 6> after_twenty_steps(double momentum) {
  Stream stream(2);
  const Parameters parameters({{2, 3, true}}, DType::bf16);
  Draws draw(3);
  for (int i = 0; i < 6; ++i) parameters.master(0)[i] = draw();
  Sgd optimizer(parameters.list, {.momentum = momentum, .weight_decay = 0.1});
  for (int64_t step = 1; step <= 20; ++step) {
    for (int i = 0; i < 6; ++i) parameters.gradient(0)[i] = 4 * draw();
    optimizer.step(stream,
                   {.step = step, .learning_rate = 0.1 * static_cast<double>(step) / 20, .gradient_scale = 0.25});
  }
  std::array<float, 6> weights;
  for (int i = 0; i < 6; ++i) {
    weights[static_cast<size_t>(i)] = parameters.master(0)[i];
    EXPECT_EQ(float(parameters.list[0].working.row<bf16>(i / 3)[i % 3]), float(bf16(parameters.master(0)[i])));
  }
  StateList list;
  optimizer.state(list);
  EXPECT_EQ(list.entries().size(), momentum > 0 ? 1u : 0u);
  return weights;
}

// torch.optim.SGD of PyTorch 2.15.0 (CPU, float32), with w *= 1 - 0.1 lr before each step.
TEST(Sgd, TwentyStepsAsTorch) {
  constexpr std::array plain = {-0.35338094830513f,    -0.1403762698173523f, 0.3304680585861206f,
                                -0.06957179307937622f, 0.08173707127571106f, -0.19038164615631104f};
  constexpr std::array with_momentum = {-0.23336711525917053f, -0.29738184809684753f, 0.5664160251617432f,
                                        0.03228945657610893f,  -0.4786969721317291f,  -0.34423142671585083f};
  const auto seen = after_twenty_steps(0), seen_with_momentum = after_twenty_steps(0.9);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_NEAR(seen[i], plain[i], 1e-6);
    EXPECT_NEAR(seen_with_momentum[i], with_momentum[i], 1e-6);
  }
}

TEST(Sgd, ConstantsOutOfRangeAreRefused) {
  const Parameters parameters({{1, 1}}, DType::f32);
  EXPECT_THROW(Sgd(parameters.list, {.momentum = 1}), Error);
  EXPECT_THROW(Sgd(parameters.list, {.momentum = -0.1}), Error);
  EXPECT_THROW(Sgd(parameters.list, {.weight_decay = -1}), Error);
}

}  // namespace
}  // namespace nibble
