// Magnitude keys of vectors.
#pragma once

#include <bit>
#include <cstdint>

#include "comm/magnitude_key.hpp"
#include "tensor/simd.hpp"

namespace nibble {

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
