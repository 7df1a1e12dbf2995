// The linear operator on a device has the host's bits: its operands, scales and products never leave the device. A
// GPU's library adds products in an order of its own.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tensor/cuda/emulation/control.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/quant/linear_operator.hpp"

namespace nibble {
namespace {

constexpr int64_t depth = 128;  ///< of all three products

/// In two orders, sums of n terms differ by at most 2 n 2^-24 times the sum of the terms' magnitudes, which for normal
/// numbers is some twice the largest sum. A GPU's sums of codes keep fewer bits (coded_gemm.hpp).
void expect_sums(const std::vector<float>& device, const std::vector<float>& host, bool of_codes) {
  if (cuda::emulation::linked()) {
    EXPECT_EQ(device, host);
    return;
  }
  const auto magnitude = [](float v) { return std::abs(v); };
  const double bound = (of_codes ? 0x1p-8 : 4 * depth * 0x1p-24) * magnitude(std::ranges::max(host, {}, magnitude));
  for (size_t i = 0; i < host.size(); ++i) EXPECT_NEAR(device[i], host[i], bound) << i;
}

class LinearOnDevice : public ::testing::TestWithParam<const char*> {};

TEST_P(LinearOnDevice, HasTheHostsResults) {
  const LinearCall call{.step = 5, .micro_batch = 2, .pass = Pass::training};
  const LinearOperands operands(depth, depth, depth);
  const Recipe recipe = find_recipe(GetParam());
  const LinearResults host = run_linear(recipe, operands, call),
                      device = run_linear(recipe, operands, call, DType::f32, Place::device);
  Stream stream(1, Place::device);
  const std::vector<DType> types = make_linear(recipe, operands.spec)->product_types(stream);
  const bool of_codes = std::ranges::find(types, DType::u8) != types.end();
  expect_sums(device.y.values, host.y.values, of_codes);
  expect_sums(device.dx.values, host.dx.values, of_codes);
  expect_sums(device.dw.values, host.dw.values, of_codes);
}

INSTANTIATE_TEST_SUITE_P(Recipes, LinearOnDevice,
                         ::testing::Values("quartet2", "quest-w4a4", "quest-w4a16", "mxfp4-rht-sr", "nvfp4-nvidia",
                                           "halo2-int8", "fp8-row", "fp8-delayed"),
                         [](const auto& one) {
                           std::string name = one.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(LinearOnDeviceToo, StepsLearnWhatTheHostsDo) {
  const LinearOperands operands(depth, depth, depth);
  const OwnedTensor logarithms(DType::f32, 1, 2);
  logarithms.view().as<float>()[0] = -0.9f, logarithms.view().as<float>()[1] = -1.3f;
  for (const char* name : {"lsq-w4a4", "pact-w3a4", "lsq-w3a16"}) {
    std::vector<LinearResults> results;
    std::vector<OwnedTensor> gradients;
    for (const Place place : {Place::host, Place::device}) {
      Stream stream(1, place);
      const OwnedTensor gradient(DType::f32, 1, 2, "test", place),
          there = place == Place::device ? testing::on_device(stream, logarithms) : OwnedTensor();
      const LinearCall call{.step = 5,
                            .pass = Pass::training,
                            .steps = there.view() ? there.view() : logarithms.view(),
                            .step_gradients = gradient};
      results.push_back(run_linear(find_recipe(name), operands, call, DType::f32, place));
      gradients.push_back(testing::on_host(stream, gradient));
    }
    expect_sums(results[1].y.values, results[0].y.values, false);
    expect_sums(results[1].dx.values, results[0].dx.values, false);
    expect_sums(results[1].dw.values, results[0].dw.values, false);
    for (const int role : {0, 1}) {
      const float expected = gradients[0].view().as<float>()[role], seen = gradients[1].view().as<float>()[role];
      EXPECT_NEAR(seen, expected, cuda::emulation::linked() ? 0 : 1e-4f * std::abs(expected)) << name << role;
    }
    EXPECT_NE(gradients[0].view().as<float>()[1], 0) << name;
  }
}

TEST(LinearOnDeviceToo, WhatWeightsLoseIsTheHosts) {
  const LinearCall call{.step = 5};
  const LinearOperands operands(128, 128, 128);
  for (const char* name : {"quest-w4a4", "quartet2"}) {
    const auto linear = make_linear(find_recipe(name), operands.spec);
    std::vector<OwnedTensor> residuals;
    for (const Place place : {Place::host, Place::device}) {
      Stream stream(2, place);
      const auto bytes = static_cast<int64_t>(linear->scratch_bytes(stream, operands.spec.tokens));
      const OwnedTensor scratch(DType::u8, 1, bytes, "test", place),
          residual(DType::f32, operands.spec.out, operands.spec.in, "test", place);
      const OwnedTensor w = tensor_of(operands.w, DType::bf16),
                        there = place == Place::device ? testing::on_device(stream, w) : OwnedTensor();
      ASSERT_TRUE(linear->weight_residual(stream, call, there.view() ? there.view() : w.view(), residual, scratch));
      residuals.push_back(testing::on_host(stream, residual));
    }
    EXPECT_TRUE(testing::same_bits(residuals[0], residuals[1])) << name;
  }
}

}  // namespace
}  // namespace nibble
