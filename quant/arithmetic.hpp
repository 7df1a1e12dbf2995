// The arithmetic of quantizers, element by element: rounding to a format, codes, scales.
//
// Written once for one float and for sixteen, for host and device: `Real` is float or f32x (tensor/real.hpp). Only IEEE
// additions, multiplications, divisions and bits are used, never contracted, so every processor gives the same codes.
// Not for: groups of elements (block_quantizer.hpp).
#pragma once

#include <cstdint>

#include "quant/element_format.hpp"
#include "tensor/real.hpp"

// Every function here: vectors never pass through calls between code for AVX-512 and code for AVX2 (simd.hpp).
#define NIBBLE_INLINE [[gnu::always_inline]] NIBBLE_HOST_DEVICE inline

namespace nibble {

template <class Real>
using BitsOf = typename RealTraits<Real>::Bits;

template <class Real>
NIBBLE_INLINE BitsOf<Real> bits_of(Real x) {
  return simd::as<BitsOf<Real>>(x);
}
template <class Real>
NIBBLE_INLINE Real constant(float value) {
  return RealTraits<Real>::constant(value);
}
template <class Real>
NIBBLE_INLINE Real magnitude(Real x) {
  return simd::as<Real>(bits_of(x) & 0x7fffffffu);
}
template <class Real>
NIBBLE_INLINE Real with_sign_of(Real magnitude, Real x) {
  return simd::as<Real>(bits_of(magnitude) | (bits_of(x) & 0x80000000u));
}
/// The larger one; a NaN is larger than anything. Both without sign.
template <class Real>
NIBBLE_INLINE Real larger_magnitude(Real a, Real b) {
  const BitsOf<Real> x = bits_of(a), y = bits_of(b);
  return simd::as<Real>(x > y ? x : y);
}

/// The distance between neighbours of the format around a magnitude of at most format.max.
template <class Real>
NIBBLE_INLINE Real quantum_at(Real magnitude, const ElementFormat& format) {
  const auto smallest = static_cast<uint32_t>(format.min_exponent + 127) << 23;
  const BitsOf<Real> exponent = bits_of(magnitude) & 0x7f800000u;
  const BitsOf<Real> least = exponent - exponent + smallest;
  return simd::as<Real>((exponent > least ? exponent : least) - (static_cast<uint32_t>(format.mantissa_bits) << 23));
}

/// To a multiple of `quantum` (a power of two), nearest, ties to even; |x| < 2^22 quanta.
template <class Real>
NIBBLE_INLINE Real to_multiple(Real x, Real quantum) {
  const Real shift = quantum * 12582912.0f;  // 1.5 * 2^23: the sum's last bit is worth one quantum
  return (x + shift) - shift;
}
template <class Real>
NIBBLE_INLINE Real down_to_multiple(Real x, Real quantum) {
  const Real nearest = to_multiple(x, quantum);
  return nearest > x ? nearest - quantum : nearest;
}

/// The smaller one of a magnitude, which may be a NaN, and the largest of the format. Bits of positive numbers are in
/// the order of the numbers, and integers have an instruction for it that agrees about NaN.
template <class Real>
NIBBLE_INLINE Real saturated(Real magnitude, const ElementFormat& format) {
  const BitsOf<Real> x = bits_of(magnitude), max = bits_of(constant<Real>(format.max));
  return simd::as<Real>(x < max ? x : max);
}

/// The nearest value of the format, ties to the even code, saturating. A NaN saturates: scales carry it on.
template <class Real>
NIBBLE_INLINE Real round_to_even(Real x, const ElementFormat& format) {
  const Real size = saturated(magnitude(x), format);
  return with_sign_of(to_multiple(size, quantum_at(size, format)), x);
}
/// The nearest half-odd level; the ties, at the integers, go up (QuEST's floor).
template <class Real>
NIBBLE_INLINE Real round_half_odd(Real x, const ElementFormat& format) {
  const Real size = saturated(magnitude(x), format), one = constant<Real>(1), max = constant<Real>(format.max);
  const Real level = down_to_multiple(with_sign_of(size, x), one) + 0.5f;
  return level < max ? level : max;
}
template <class Real>
NIBBLE_INLINE Real round_nearest(Real x, const ElementFormat& format) {
  return format.half_odd() ? round_half_odd(x, format) : round_to_even(x, format);
}

/// One of the two neighbours, the upper (in magnitude) where uniform >= 1 - (distance to the lower) in quanta, so that
/// the mean is x for a uniform in [0, 1); saturating. A value of the format stays. Not for half-odd levels.
template <class Real>
NIBBLE_INLINE Real round_stochastic(Real x, Real uniform, const ElementFormat& format) {
  const Real size = saturated(magnitude(x), format), quantum = quantum_at(size, format);
  return with_sign_of(saturated(down_to_multiple(size + uniform * quantum, quantum), format), x);
}

/// A uniform number in (0, 1) of 16 random bits.
template <class Real>
NIBBLE_INLINE Real uniform_of(BitsOf<Real> half) {
  // 128 + half / 2^16, less 128, plus half of what a number's last bit is worth.
  return simd::as<Real>(half | 0x43000000u) - (128 - 0x1p-17f);
}

/// The code of a value of the format (ElementFormat::value), which must be one of its finite values.
template <class Real>
NIBBLE_INLINE BitsOf<Real> encode(Real value, const ElementFormat& format) {
  using Bits = BitsOf<Real>;
  // Adding 1.5 * 2^23 leaves an integer, two's complement, in the low bits.
  const auto integer = [](Real x) { return bits_of(x + 12582912.0f); };
  const float per_quantum = 1 / format.quantum();
  if (format.fixed_point()) return integer(value * per_quantum - format.offset) & ((1u << format.bits()) - 1);
  const Real size = magnitude(value);
  const Bits normal = (bits_of(size) >> (23 - format.mantissa_bits)) -
                      (static_cast<uint32_t>(format.min_exponent + 126) << format.mantissa_bits);
  const Bits subnormal = integer(size * per_quantum) & ((1u << format.mantissa_bits) - 1);
  const Real smallest_normal = constant<Real>(format.quantum() * static_cast<float>(1 << format.mantissa_bits));
  const Bits code = size < smallest_normal ? subnormal : normal;
  return code | (bits_of(value) >> 31) << (format.bits() - 1);
}
/// The value of a code: ElementFormat::value of those that encode() gives.
template <class Real>
NIBBLE_INLINE Real decode(BitsOf<Real> code, const ElementFormat& format) {
  using Integers = typename RealTraits<Real>::Integers;
  if (format.fixed_point()) {
    const int unused = 32 - format.bits();
    const Integers integer = simd::as<Integers>(code << static_cast<uint32_t>(unused)) >> unused;
    return (RealTraits<Real>::number(integer) + format.offset) * format.quantum();
  }
  const auto sign_shift = static_cast<uint32_t>(format.bits() - 1);
  const BitsOf<Real> size = code & ((1u << sign_shift) - 1);
  const Real normal = simd::as<Real>((size << (23 - format.mantissa_bits)) +
                                     (static_cast<uint32_t>(format.min_exponent + 126) << 23)),
             subnormal = RealTraits<Real>::number(simd::as<Integers>(size)) * format.quantum();
  const Real value = size < 1u << format.mantissa_bits ? subnormal : normal;
  return simd::as<Real>(bits_of(value) | code >> sign_shift << 31);
}

// E8M0 scales: the biased exponent of a power of two, 255 for what is no number (OCP MX v1.0, section 5.4.1).

/// The largest power of two that is at most x, or with `up` the smallest that is at least x; x >= 0, or a NaN. None is
/// below 2^-127; above 2^127 all is no number.
template <class Real>
NIBBLE_INLINE BitsOf<Real> e8m0_code(Real x, bool up) {
  const BitsOf<Real> exponent = bits_of(x) >> 23;
  if (!up) return exponent;
  const BitsOf<Real> zero = exponent - exponent, one = zero + 1u, smallest = zero + 0x00400000u, all = zero + ~0u;
  const BitsOf<Real> mantissa = bits_of(x) & 0x7fffffu;
  return exponent + (mantissa > (exponent == 0u ? smallest : exponent == 255u ? all : zero) ? one : zero);
}
template <class Real>
NIBBLE_INLINE Real e8m0_value(BitsOf<Real> code) {
  const BitsOf<Real> zero = code - code;
  const BitsOf<Real> power = code << 23;  // of 255: infinity's bits, made a NaN below
  const BitsOf<Real> subnormal = zero + 0x00400000u, quiet = zero + 0x7fc00000u;
  return simd::as<Real>(code == 0u ? subnormal : code == 255u ? quiet : power);
}

}  // namespace nibble

#undef NIBBLE_INLINE
