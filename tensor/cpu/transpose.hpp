// Squares of 16 x 16 four-byte elements, turned in AVX-512 registers.
//
// Included behind a target pragma: everything here is always inlined.
#pragma once

#include <utility>

#include "tensor/simd.hpp"

namespace nibble::simd {

/// Groups of `group` elements of a and b in turn, from those that start at `first` on.
template <int group, int first, int... lane>
[[gnu::always_inline]] inline f32x interleave(f32x a, f32x b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(
      a, b, (first + lane / (2 * group) * group + lane % group + lane / group % 2 * int{lanes})...);
}

/// v[i][j] becomes v[j][i]. Only bits are moved, so elements may be anything of 4 bytes.
/// In stage s, rows stand together in groups of 2^s; pairs of groups are interleaved.
template <int group = 1>
[[gnu::always_inline]] inline void transpose(f32x (&v)[lanes]) {
  constexpr std::make_integer_sequence<int, lanes> all;
  f32x next[lanes];
#pragma GCC unroll 16
  for (int i = 0; i < lanes / 2; ++i) {
    const int pair = i / group, piece = i % group;
    const f32x a = v[2 * pair * group + piece], b = v[(2 * pair + 1) * group + piece];
    next[2 * i] = interleave<group, 0>(a, b, all);
    next[2 * i + 1] = interleave<group, lanes / 2>(a, b, all);
  }
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) v[i] = next[i];
  if constexpr (2 * group < lanes) transpose<2 * group>(v);
}

}  // namespace nibble::simd
