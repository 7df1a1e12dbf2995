// Magnitudes of floats as integers of the same order.
#pragma once

#include <cstdint>

#include "tensor/host_device.hpp"
#include "tensor/real.hpp"

namespace nibble {

/// 31 bits; of a NaN that of infinity.
inline constexpr int32_t largest_key = 0x7f800000;
inline constexpr int key_bits = 31;

[[gnu::always_inline]] NIBBLE_HOST_DEVICE inline int32_t magnitude_key(float value) {
  const int32_t key = simd::as<int32_t>(value) & 0x7fffffff;
  return key > largest_key ? largest_key : key;
}

}  // namespace nibble
