// What moments in fewer bits are rounded to, and the 8-bit codes: the code of a value under a scale of 1, and what it
// means.
//
// Written once for `Lanes`, a register full of values (cpu/moment_lanes.hpp) or a single one (cuda/moment_tiles.hpp):
// the numbers in each lane are the same. Lanes has the types `floats` and `integers`, and
//   absolute(floats)                    without the sign
//   bits(floats), with_bits(integers)   the same bits as the other type
//   whole(floats), number(integers)     converted; what is behind the point is cut off
//   one_where(condition)                1 where a comparison of floats holds, else 0
//   pick<table>(integers)               of a table of eight; indices are in [0, 8)
// Not for: scales and memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "optim/moment.hpp"
#include "tensor/host_device.hpp"

namespace nibble {

/// The float whose upper half the bf16 is: rounded up with the probability that makes the mean exact, never to an
/// infinity. `draw`: sixteen random bits.
template <class Lanes>
NIBBLE_HOST_DEVICE typename Lanes::integers stochastic_bf16(typename Lanes::floats value,
                                                            typename Lanes::integers draw) {
  constexpr int32_t exponent = 0x7f800000;
  const typename Lanes::integers exact = Lanes::bits(value), drawn = exact + draw;
  return (drawn & exponent) == exponent ? exact : drawn;
}

/// Sixteen random bits as a number in (0, 1).
template <class Lanes>
NIBBLE_HOST_DEVICE typename Lanes::floats uniform(typename Lanes::integers draw) {
  return (Lanes::number(draw) + 0.5f) * 0x1p-16f;
}

/// The scale of a block whose largest magnitude is `most`: normal, so that its inverse is finite, and such that no code
/// stands for an infinity.
template <class Lanes>
NIBBLE_HOST_DEVICE float code_scale(float most, float largest_code) {
  constexpr float endless = 3.4e38f;
  return std::clamp(std::min(most, endless) / largest_code, std::numeric_limits<float>::min(), endless);
}

/// The dynamic tree code of Dettmers et al., arXiv 2110.02861, numbered by value as bitsandbytes numbers it: seven
/// decades (10^(d-7), 10^(d-6)), d = 0..6, each cut into equal cells whose middles are the values, 2^d cells, or
/// without a sign 2^(d+1); besides, 0 and 1, and with a sign the negatives of the middles: -1 becomes -0.993.
///
/// The numbers k of magnitudes are such that a decade's cells are k = 2^p + j, j < 2^p: the exponent of k as a float is
/// the decade, its mantissa the place there. So no table of 256 is searched or read.
template <class Lanes, bool has_sign>
class DynamicCode {
  using floats = typename Lanes::floats;
  using integers = typename Lanes::integers;

 public:
  using Storage = uint8_t;
  static constexpr int64_t block = dynamic_code_block;
  /// The largest value.
  static constexpr float largest = 1;

  /// The nearest value's code. value * inverse is in [-1, 1], without a sign in [0, 1], where what is above 0 never
  /// gets the code of 0: second moments are divided by (the zero-point problem of Li et al., "Memory efficient
  /// optimizers with 4-bit states", arXiv 2309.01507).
  NIBBLE_HOST_DEVICE static integers encode(floats value, float inverse) {
    return with_sign(nearest(value, inverse), value);
  }

  /// The code of one of the two values around value * inverse, which is in [-top, top], so that their mean over `draw`,
  /// uniform in (0, 1), is that.
  NIBBLE_HOST_DEVICE static integers encode(floats value, float inverse, floats draw) {
    const floats x = Lanes::absolute(value) * inverse;
    integers k = nearest(value, inverse);
    k -= Lanes::one_where(magnitude(k) > x);
    const floats below = magnitude(k), above = magnitude(k + 1);
    k += Lanes::one_where(draw * (above - below) < x - below);
    return with_sign(k, value);
  }

  NIBBLE_HOST_DEVICE static floats decode(integers code) {
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
  /// How many decades end below x.
  template <size_t... d>
  NIBBLE_HOST_DEVICE static integers decades_below(floats x, std::index_sequence<d...>) {
    integers count{};
    const auto add = [&](auto bound) { count += Lanes::one_where(x >= bound()); };
    (add([] {
       constexpr float bound = upper_bound[lowest + d];
       return bound;
     }),
     ...);
    return count;
  }

  /// k of the value nearest to |value| * inverse.
  NIBBLE_HOST_DEVICE static integers nearest(floats value, float inverse) {
    const floats scaled = Lanes::absolute(value) * inverse, x = scaled < 1 ? scaled : floats{} + 1;
    integers p = integers{} + (lowest - 1);
    constexpr float least = first_value[lowest] / 2;
    if constexpr (has_sign) p += Lanes::one_where(x >= least);
    else p += Lanes::one_where(value > 0);
    p += decades_below(x, std::make_index_sequence<decades>());
    // 2^p (1 + (x / end - 0.1) / 0.9); at zero and one, where there are no cells, p alone decides.
    const floats cells = Lanes::with_bits((p + 127) << 23), last = 2 * cells - 1;
    const floats place = x * Lanes::template pick<cells_per_unit>(p & 7) + cells * (8.0f / 9);
    const floats at_most = place < last ? place : last;
    return Lanes::whole(at_most > cells ? at_most : cells);
  }

  NIBBLE_HOST_DEVICE static integers with_sign(integers k, floats value) {
    if constexpr (!has_sign) return k - 1;
    return zero + (value < 0 ? -(k < 127 ? k : integers{} + 127) : k);
  }

  NIBBLE_HOST_DEVICE static floats magnitude(integers k) {
    const integers bits = Lanes::bits(Lanes::number(k));
    const integers p = ((bits >> 23) - 127) & 7;
    const floats place = Lanes::with_bits((bits & 0x7fffff) | 0x3f800000) - 1;
    const floats value = Lanes::template pick<first_value>(p) + Lanes::template pick<width>(p) * place;
    if constexpr (has_sign) return k == 0 ? floats{} : value;
    return k == 256 ? floats{} + 1 : value;
  }
};

/// Whole numbers of [-127, 127], the nearest, ties to even; value * inverse is in this range. arXiv 2509.23106.
template <class Lanes>
class LinearCode {
  using floats = typename Lanes::floats;
  using integers = typename Lanes::integers;

 public:
  using Storage = int8_t;
  static constexpr int64_t block = linear_code_block;
  static constexpr float largest = 127;

  NIBBLE_HOST_DEVICE static integers encode(floats value, float inverse) {
    constexpr float shift = 12582912.0f;  // 1.5 * 2^23, whose bits are 0x4b400000: the sum's low bits are the integer
    return Lanes::bits(value * inverse + shift) - 0x4b400000;
  }
  NIBBLE_HOST_DEVICE static floats decode(integers code) { return Lanes::number(code); }
};

}  // namespace nibble
