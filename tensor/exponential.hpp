// The exponential function of all kernels, written once: of a float on any device, and of simd.hpp's sixteen lanes.
// Both give the same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "tensor/host_device.hpp"

namespace nibble {

/// e^x for x in [-87.3, 88.7], 0 below, +inf above, NaN for NaN; within 2 units in the last place.
/// x = n ln2 + r with ln2 split in two (Cody and Waite), e^r by its Taylor polynomial of degree 7 on |r| <= ln2/2
/// (remainder 7e-9 relative, a tenth of an ulp), and n added to the exponent bits. Beyond the range e^r 2^n is
/// meaningless and replaced.
/// `Form` has what floats are: splat(float), fma(a, b, c) rounded once, bits(floats), floats(bits).
template <class Form, class Floats>
[[gnu::always_inline]] inline NIBBLE_HOST_DEVICE Floats exponential(Floats x) {
  constexpr float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  constexpr float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer, which fills the low bits
  const Floats shifted = Form::fma(x, Form::splat(log2e), Form::splat(shift));
  const Floats n = shifted - shift;
  const Floats r = Form::fma(n, Form::splat(-ln2_low), Form::fma(n, Form::splat(-ln2_high), x));
  Floats p = Form::splat(1.0f / 5040);
  p = Form::fma(p, r, Form::splat(1.0f / 720));  // not a loop: compilers make vector instructions of each
  p = Form::fma(p, r, Form::splat(1.0f / 120));
  p = Form::fma(p, r, Form::splat(1.0f / 24));
  p = Form::fma(p, r, Form::splat(1.0f / 6));
  p = Form::fma(p, r, Form::splat(0.5f));
  p = Form::fma(p, r, Form::splat(1.0f));
  p = Form::fma(p, r, Form::splat(1.0f));
  Floats y = Form::floats(Form::bits(p) + (Form::bits(shifted) << 23));
  y = x < -87.33654f ? Form::splat(0.0f) : y;
  y = x > 88.72283f ? Form::splat(__builtin_inff()) : y;
  return x == x ? y : x;
}

/// A float alone.
struct OneFloat {
  static NIBBLE_HOST_DEVICE float splat(float value) { return value; }
  static NIBBLE_HOST_DEVICE float fma(float a, float b, float c) { return std::fma(a, b, c); }
  static NIBBLE_HOST_DEVICE uint32_t bits(float x) { return std::bit_cast<uint32_t>(x); }
  static NIBBLE_HOST_DEVICE float floats(uint32_t bits) { return std::bit_cast<float>(bits); }
};

inline NIBBLE_HOST_DEVICE float exponential(float x) { return exponential<OneFloat>(x); }

/// 1 / (1 + e^-x)
inline NIBBLE_HOST_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace nibble
