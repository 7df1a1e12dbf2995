// Magnitudes of floats as integers of the same order.
#pragma once

#include <bit>
#include <cstdint>

#include "tensor/simd.hpp"

namespace nibble {

/// 31 bits; of a NaN that of infinity.
inline constexpr int32_t largest_key = 0x7f800000;
inline constexpr int key_bits = 31;

[[gnu::always_inline]] inline int32_t magnitude_key(float value) {
  const int32_t key = std::bit_cast<int32_t>(value) & 0x7fffffff;
  return key > largest_key ? largest_key : key;
}
[[gnu::always_inline]] inline simd::i32x magnitude_keys(simd::f32x values) {
  const simd::i32x keys = simd::as<simd::i32x>(values) & 0x7fffffff;
  return keys > largest_key ? simd::i32x{} + largest_key : keys;
}

/// Calls found(lane) for each of sixteen keys that is at least `bound` >= 0, in order. For few of them.
template <class Found>
[[gnu::always_inline]] inline void for_each_reached(simd::i32x keys, int32_t bound, Found&& found) {
  constexpr uint32_t all = (1u << simd::lanes) - 1;
  for (uint32_t reached = simd::negative_lanes(keys - bound) ^ all; reached != 0; reached &= reached - 1)
    found(std::countr_zero(reached));
}

}  // namespace nibble
