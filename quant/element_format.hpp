// Number formats of single elements, as data: each is one description from which rounding, codes and tables follow.
//
// A format is a sign and a magnitude: floating point with few bits, or fixed point (no exponent bits), whose values are
// then all multiples of one quantum. Sources: OCP Microscaling Formats v1.0 (E2M1, E3M2, E2M3, MXINT8), OCP 8-bit
// Floating Point v1.0 (E4M3, E5M2), QuEST (arXiv 2502.05003) for half-odd levels.
// Not for: what scales an element (quantizer.hpp).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

namespace nibble {

struct ElementFormat {
  std::string_view name;
  int exponent_bits;  ///< 0: fixed point
  int mantissa_bits;  ///< explicit ones; of fixed point all bits of the magnitude
  /// Of the smallest normal number: the quantum below it is 2^(min_exponent - mantissa_bits). Fixed point lies below.
  int min_exponent;
  float max;  ///< the largest magnitude; larger ones saturate
  /// Levels are (k + offset) quanta: 0.5 for QuEST's, which have no zero; fixed point only.
  float offset = 0;
  int infinity_code = -1;   ///< of the magnitude; -1: none
  int first_nan_code = -1;  ///< from here on magnitudes are no numbers; -1: none

  constexpr bool fixed_point() const { return exponent_bits == 0; }
  constexpr bool half_odd() const { return offset != 0; }
  constexpr int bits() const { return half_odd() ? mantissa_bits : 1 + exponent_bits + mantissa_bits; }
  /// Codes that a quantizer writes are below; the rest stands for what is no finite number.
  constexpr int codes() const { return 1 << bits(); }
  /// 2^(min_exponent - mantissa_bits).
  constexpr float quantum() const { return power_of_two(min_exponent - mantissa_bits); }
  /// Bits that a product needs of any value: half-odd levels are odd multiples of half a quantum.
  constexpr int significant_bits() const {
    if (half_odd()) return mantissa_bits;
    return fixed_point() ? mantissa_bits : mantissa_bits + 1;
  }

  /// What a code stands for. Floating point: sign, exponent, mantissa. Fixed point: two's complement.
  constexpr float value(int code) const {
    if (fixed_point()) {
      const int half = 1 << (bits() - 1);
      return (static_cast<float>(code < half ? code : code - 2 * half) + offset) * quantum();
    }
    const int sign_bit = 1 << (exponent_bits + mantissa_bits), magnitude_code = code & (sign_bit - 1);
    const float sign = code & sign_bit ? -1.0f : 1.0f;
    if (magnitude_code == infinity_code) return sign * std::numeric_limits<float>::infinity();
    if (first_nan_code >= 0 && magnitude_code >= first_nan_code) return std::numeric_limits<float>::quiet_NaN();
    const int exponent = magnitude_code >> mantissa_bits, mantissa = magnitude_code & ((1 << mantissa_bits) - 1);
    const int significand = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
    return sign * static_cast<float>(significand) *
           power_of_two(min_exponent - mantissa_bits + (exponent == 0 ? 0 : exponent - 1));
  }

  bool operator==(const ElementFormat&) const = default;

  static constexpr float power_of_two(int exponent) {
    if (exponent >= -126 && exponent <= 127)
      return __builtin_bit_cast(float, static_cast<uint32_t>(exponent + 127) << 23);
    float power = 1;
    for (; exponent > 0; --exponent) power *= 2;
    for (; exponent < 0; ++exponent) power /= 2;
    return power;
  }
};

namespace formats {

inline constexpr ElementFormat e2m1{"e2m1", 2, 1, 0, 6};
inline constexpr ElementFormat e2m3{"e2m3", 2, 3, 0, 7.5f};
inline constexpr ElementFormat e3m2{"e3m2", 3, 2, -2, 28};
inline constexpr ElementFormat e4m3{
    .name = "e4m3", .exponent_bits = 4, .mantissa_bits = 3, .min_exponent = -6, .max = 448, .first_nan_code = 0x7f};
inline constexpr ElementFormat e5m2{.name = "e5m2",
                                    .exponent_bits = 5,
                                    .mantissa_bits = 2,
                                    .min_exponent = -14,
                                    .max = 57344,
                                    .infinity_code = 0x7c,
                                    .first_nan_code = 0x7d};
/// Integers scaled by their largest magnitude: symmetric, the most negative code is not used.
constexpr ElementFormat integer_of(std::string_view name, int bits) {
  return {name, 0, bits - 1, bits - 1, static_cast<float>((1 << (bits - 1)) - 1)};
}
inline constexpr ElementFormat integer[] = {integer_of("int2", 2), integer_of("int3", 3), integer_of("int4", 4),
                                            integer_of("int5", 5), integer_of("int6", 6), integer_of("int7", 7),
                                            integer_of("int8", 8)};
inline constexpr const ElementFormat& int4 = integer[2];
inline constexpr const ElementFormat& int8 = integer[6];
/// OCP MX: an implicit scale of 2^-6.
inline constexpr ElementFormat mxint8{"mxint8", 0, 7, 1, 127.0f / 64};

/// QuEST's b-bit integers: levels -(2^b - 1)/2 ... (2^b - 1)/2 in steps of 1.
constexpr ElementFormat half_odd(int bits) {
  constexpr std::string_view names[] = {"",       "quest1", "quest2", "quest3", "quest4",
                                        "quest5", "quest6", "quest7", "quest8"};
  return {.name = names[bits],
          .exponent_bits = 0,
          .mantissa_bits = bits,
          .min_exponent = bits,
          .max = static_cast<float>((1 << bits) - 1) / 2,
          .offset = 0.5f};
}
inline constexpr ElementFormat quest[] = {half_odd(1), half_odd(2), half_odd(3), half_odd(4),
                                          half_odd(5), half_odd(6), half_odd(7), half_odd(8)};

}  // namespace formats

/// All of them, for whoever lists or looks up formats by name.
std::span<const ElementFormat* const> element_formats();

/// A format equal to this one that lives as long as the program, always at the same address: one of element_formats(),
/// or a copy that the first such call makes. Quantizers of formats that a user describes point to it.
/// Throws Error{configuration} for a description without meaning (more than 8 bits, a largest magnitude that is no
/// value of the format, the name of another format).
const ElementFormat& lasting_format(const ElementFormat& format);

}  // namespace nibble
