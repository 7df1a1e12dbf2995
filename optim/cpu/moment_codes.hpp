// The 8-bit codes of moments, for a register full of values: the code of a value under a scale of 1, and what it means.
//
// For moment_pack_body.hpp alone, which is compiled once for each instruction set: the registers' width is another one,
// the numbers in each lane are the same. Not for: scales and memory.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <array>
#include <cstdint>

#include "optim/moment.hpp"

namespace nibble {
namespace {

#if defined(NIBBLE_MOMENTS_FOR_AVX512)
constexpr int64_t lanes = 16;
#else
constexpr int64_t lanes = 8;
#endif

using floats = float __attribute__((vector_size(lanes * 4)));
using integers = int32_t __attribute__((vector_size(lanes * 4)));

floats absolute(floats v) { return (floats)((integers)v & 0x7fffffff); }

/// table[index[lane]]; indices are in [0, 8).
floats pick(const std::array<float, 8>& table, integers index) {
#if defined(NIBBLE_MOMENTS_FOR_AVX512)
  return (floats)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index,
                                             _mm512_maskz_broadcast_f32x8(0xffff, _mm256_loadu_ps(table.data())));
#elif defined(__x86_64__)
  return (floats)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table.data()), (__m256i)index);
#else
  floats picked;
  for (int64_t lane = 0; lane < lanes; ++lane) picked[lane] = table[static_cast<size_t>(index[lane])];
  return picked;
#endif
}

/// The dynamic tree code of Dettmers et al., arXiv 2110.02861, numbered by value as bitsandbytes numbers it: seven
/// decades (10^(d-7), 10^(d-6)), d = 0..6, each cut into equal cells whose middles are the values, 2^d cells, or
/// without a sign 2^(d+1); besides, 0 and 1, and with a sign the negatives of the middles: -1 becomes -0.993.
///
/// The numbers k of magnitudes are such that a decade's cells are k = 2^p + j, j < 2^p: the exponent of k as a float is
/// the decade, its mantissa the place there. So no table of 256 is searched or read.
template <bool has_sign>
class DynamicCode {
 public:
  using Storage = uint8_t;
  static constexpr int64_t block = dynamic_code_block;
  /// The largest value.
  static constexpr float largest = 1;

  /// The nearest value's code. value * inverse is in [-1, 1], without a sign in [0, 1], where what is above 0 never
  /// gets the code of 0: second moments are divided by (the zero-point problem of Li et al., "Memory efficient
  /// optimizers with 4-bit states", arXiv 2309.01507).
  static integers encode(floats value, float inverse) { return with_sign(nearest(value, inverse), value); }

  /// The code of one of the two values around value * inverse, which is in [-top, top], so that their mean over `draw`,
  /// uniform in (0, 1), is that.
  static integers encode(floats value, float inverse, floats draw) {
    const floats x = absolute(value) * inverse;
    integers k = nearest(value, inverse);
    k += magnitude(k) > x;  // a comparison that holds is -1
    const floats below = magnitude(k), above = magnitude(k + 1);
    k -= draw * (above - below) < x - below;
    return with_sign(k, value);
  }

  static floats decode(integers code) {
    if constexpr (!has_sign) return magnitude(code + 1);
    const integers number = code - zero;
    const floats size = magnitude(number < 0 ? -number : number);
    return number < 0 ? -size : size;
  }

 private:
  static constexpr int decades = 7;
  static constexpr int lowest = has_sign ? 0 : 1;  ///< p of the lowest decade
  static constexpr int zero = has_sign ? 127 : 0;  ///< its code
  using Table = std::array<float, 8>;

  /// Entries of a decade, by p modulo 8, from its upper end and its cells; `other` where there are no cells: with a
  /// sign behind the highest decade, without one before the lowest.
  template <class Entry>
  static constexpr Table by_decade(float other, Entry&& entry) {
    Table table{};
    table[has_sign ? 7 : 0] = other;
    for (int d = 0; d < decades; ++d) {
      double end = 1;
      for (int above = d + 1; above < decades; ++above) end /= 10;
      table[static_cast<size_t>(lowest + d)] = static_cast<float>(entry(end, static_cast<double>(1 << (lowest + d))));
    }
    return table;
  }

  static constexpr Table first_value =
      by_decade(has_sign ? 1 : 0, [](double end, double cells) { return end * (0.1 + 0.45 / cells); });
  static constexpr Table width = by_decade(0, [](double end, double) { return end * 0.9; });
  static constexpr Table cells_per_unit = by_decade(0, [](double end, double cells) { return cells / (end * 0.9); });
  /// Half-way between a decade's last value and the next one's first, which is 1 behind the highest.
  static constexpr Table upper_bound =
      by_decade(0, [](double end, double cells) { return end == 1 ? 1 - 0.225 / cells : end * (1 + 0.9 / cells); });

 public:
  /// The largest value that has a negative.
  static constexpr float top = static_cast<float>(1 - 0.45 / (1 << (lowest + decades - 1)));

 private:
  /// k of the value nearest to |value| * inverse.
  static integers nearest(floats value, float inverse) {
    const floats scaled = absolute(value) * inverse, x = scaled < 1 ? scaled : floats{} + 1;
    integers p = integers{} + (lowest - 1);
    if constexpr (has_sign) p -= x >= first_value[lowest] / 2;
    else p -= value > 0;
#pragma GCC unroll 7
    for (int d = 0; d < decades; ++d) p -= x >= upper_bound[static_cast<size_t>(lowest + d)];
    // 2^p (1 + (x / end - 0.1) / 0.9); at zero and one, where there are no cells, p alone decides.
    const floats cells = (floats)((p + 127) << 23), last = 2 * cells - 1;
    const floats place = x * pick(cells_per_unit, p & 7) + cells * (8.0f / 9);
    const floats at_most = place < last ? place : last;
    return __builtin_convertvector(at_most > cells ? at_most : cells, integers);
  }

  static integers with_sign(integers k, floats value) {
    if constexpr (!has_sign) return k - 1;
    return zero + (value < 0 ? -(k < 127 ? k : integers{} + 127) : k);
  }

  static floats magnitude(integers k) {
    const integers bits = (integers) __builtin_convertvector(k, floats);
    const integers p = ((bits >> 23) - 127) & 7;
    const floats place = (floats)((bits & 0x7fffff) | 0x3f800000) - 1;
    const floats value = pick(first_value, p) + pick(width, p) * place;
    if constexpr (has_sign) return k == 0 ? floats{} : value;
    return k == 256 ? floats{} + 1 : value;
  }
};

/// Whole numbers of [-127, 127], the nearest, ties to even; value * inverse is in this range. arXiv 2509.23106.
class LinearCode {
 public:
  using Storage = int8_t;
  static constexpr int64_t block = linear_code_block;
  static constexpr float largest = 127;

  static integers encode(floats value, float inverse) {
    constexpr float shift = 12582912.0f;  // 1.5 * 2^23, whose bits are 0x4b400000: the sum's low bits are the integer
    return (integers)(value * inverse + shift) - 0x4b400000;
  }
  static floats decode(integers code) { return __builtin_convertvector(code, floats); }
};

}  // namespace
}  // namespace nibble
