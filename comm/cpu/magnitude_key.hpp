// Magnitudes of floats as integers of the same order.
#pragma once

#include <bit>
#include <cstdint>

#include "tensor/simd.hpp"

namespace nibble {

/// 31 bits; of a NaN that of infinity.
inline constexpr int32_t largest_key = 0x7f800000;
inline constexpr int key_bits = 31;

/// NaNs lie above infinity, which makes no difference to what is compared with a key.
[[gnu::always_inline]] inline int32_t unlimited_key(float value) { return std::bit_cast<int32_t>(value) & 0x7fffffff; }
[[gnu::always_inline]] inline int32_t magnitude_key(float value) {
  const int32_t key = unlimited_key(value);
  return key > largest_key ? largest_key : key;
}
[[gnu::always_inline]] inline simd::i32x magnitude_keys(simd::f32x values) {
  const simd::i32x keys = simd::as<simd::i32x>(values) & 0x7fffffff;
  return keys > largest_key ? simd::i32x{} + largest_key : keys;
}

}  // namespace nibble
