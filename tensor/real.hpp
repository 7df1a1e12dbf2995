// What one float and the lanes of a vector have in common: kernels that are written for both take `Real` from here.
//
// Not for: the vectors themselves (simd.hpp), which compilers for devices do not know.
#pragma once

#include <cmath>
#include <cstdint>

#include "tensor/host_device.hpp"

namespace nibble {

namespace simd {

/// The same bits as another type (std::bit_cast would be a call).
template <class To, class From>
[[gnu::always_inline]] NIBBLE_HOST_DEVICE inline To as(From from) {
  return __builtin_bit_cast(To, from);
}

}  // namespace simd

/// Of float here, of vectors in simd.hpp.
template <class Real>
struct RealTraits;

template <>
struct RealTraits<float> {
  using Bits = uint32_t;
  using Integers = int32_t;
  using Mask = bool;  ///< what comparisons give

  [[gnu::always_inline]] NIBBLE_HOST_DEVICE static float constant(float value) { return value; }
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE static float number(int32_t integer) { return static_cast<float>(integer); }
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE static float square_root(float x) { return sqrtf(x); }
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE static bool all() { return true; }
  /// 1 where the mask is set.
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE static uint32_t ones(bool mask) { return mask ? 1u : 0u; }
};

namespace simd {

/// The bits of bf16: round to nearest even; a NaN becomes the quiet NaN 0x7fff or 0xffff.
template <class Real>
[[gnu::always_inline]] NIBBLE_HOST_DEVICE inline typename RealTraits<Real>::Bits bf16_bits(Real v) {
  using Bits = typename RealTraits<Real>::Bits;
  const Bits u = as<Bits>(v);
  const Bits rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return v == v ? rounded : (u >> 16) | 0x7fffu;
}

}  // namespace simd

}  // namespace nibble
