// The gated activation gives the same bits on a device as on the host: the exponential is the same polynomial.
#include "model/swiglu.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::Twin, testing::same_bits;

struct Shape {
  int64_t tokens, ffn, padding;
};

class SwigluOnDevice : public ::testing::TestWithParam<Shape> {
 protected:
  Stream host{2}, device{2, Place::device};
};

TEST_P(SwigluOnDevice, HasTheHostsBits) {
  const auto& [tokens, ffn, padding] = GetParam();
  for (const DType type : {DType::f32, DType::bf16}) {
    const Twin gate_up(device, type, tokens, 2 * ffn, padding, 1), y(device, type, tokens, ffn, padding, 2),
        dy(device, type, tokens, ffn, padding, 3), dgate_up(device, type, tokens, 2 * ffn, padding, 4);
    swiglu_forward(host, gate_up.here, y.here);
    swiglu_forward(device, gate_up.there, y.there);
    EXPECT_TRUE(same_bits(device, y));
    swiglu_backward(host, dy.here, gate_up.here, dgate_up.here);
    swiglu_backward(device, dy.there, gate_up.there, dgate_up.there);
    EXPECT_TRUE(same_bits(device, dgate_up));
    swiglu_backward(host, dy.here, gate_up.here, gate_up.here);
    swiglu_backward(device, dy.there, gate_up.there, gate_up.there);
    EXPECT_TRUE(same_bits(device, gate_up));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SwigluOnDevice,
                         ::testing::Values(Shape{1, 1, 0}, Shape{3, 7, 0}, Shape{70, 264, 0}, Shape{5, 344, 8},
                                           Shape{4, 100, 3}, Shape{1, 4099, 1}, Shape{3000, 4, 0}));

TEST_F(SwigluOnDevice, ExtremeGatesAndOthers) {
  constexpr float gates[] = {-1e30f, -200, -89, -87.4f, -1, -1e-30f, 0, 1, 87.3f, 88.7228f, 89, 200, 1e30f, INFINITY};
  constexpr int64_t count = std::size(gates);
  const OwnedTensor gate_up(DType::f32, 1, 2 * count), y(DType::f32, 1, count),
      there(DType::f32, 1, count, "test", Place::device);
  for (int64_t i = 0; i < count; ++i) {
    gate_up.view().as<float>()[i] = gates[i];
    gate_up.view().as<float>()[count + i] = 1;
  }
  swiglu_forward(host, gate_up, y);
  swiglu_forward(device, testing::on_device(device, gate_up), there);
  EXPECT_TRUE(same_bits(testing::on_host(device, there), y));
  gate_up.view().as<float>()[4] = std::nextafterf(-1, 0);
  swiglu_forward(host, gate_up, y);
  EXPECT_FALSE(same_bits(testing::on_host(device, there), y));
}

}  // namespace
}  // namespace nibble
