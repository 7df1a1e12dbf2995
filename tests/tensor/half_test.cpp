#include "tensor/half.hpp"

#include <gtest/gtest.h>
#include <immintrin.h>

#include <cmath>

namespace nibble {
namespace {

TEST(Half, EveryCodeIsTheProcessorsFloat) {
  for (uint32_t code = 0; code <= 0xffff; ++code) {
    const auto bits = static_cast<uint16_t>(code);
    const float value = half_to_float(bits);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(_cvtsh_ss(bits)));
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
      continue;
    }
    EXPECT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(_cvtsh_ss(bits))) << code;
    EXPECT_EQ(float_to_half(value), bits) << code;
  }
}

TEST(Half, RoundsAsTheProcessorDoes) {
  const auto expect_same = [](uint32_t bits) {
    const auto value = std::bit_cast<float>(bits);
    if (std::isnan(value)) return;
    ASSERT_EQ(float_to_half(value), _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)) << value;
  };
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 4093) expect_same(static_cast<uint32_t>(bits));
  // In the middle between two halves, and next to it.
  for (uint32_t code = 0; code < 0x7bff; ++code) {
    const float middle =
        (half_to_float(static_cast<uint16_t>(code)) + half_to_float(static_cast<uint16_t>(code + 1))) / 2;
    for (const float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e6f)}) {
      expect_same(std::bit_cast<uint32_t>(value));
      expect_same(std::bit_cast<uint32_t>(-value));
    }
  }
  for (const float value : {65504.0f, 65519.99f, 65520.0f, 1e30f, INFINITY})
    expect_same(std::bit_cast<uint32_t>(value));
}

}  // namespace
}  // namespace nibble
