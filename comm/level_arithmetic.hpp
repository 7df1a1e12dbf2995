// The arithmetic of codecs whose ranks make codes alone: levels at equal distances, and levels for normal values.
//
// Written once for one value and for the lanes of a vector: `Lanes` says what numbers are (OneLane;
// cpu/level_kernels.hpp). Not for: E4M3 (quant/arithmetic.hpp), correlated codes (correlated_arithmetic.hpp), whole
// buckets (bucket_codec.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "comm/codec.hpp"
#include "comm/normal_levels.hpp"
#include "tensor/host_device.hpp"
#include "tensor/real.hpp"

namespace nibble {

/// Whether values of at most this magnitude, whose bits these are, are finite and so far from the end of the range of
/// f32 (below 2^100) that neither norms nor sums over ranks leave it. Others have no codes.
NIBBLE_HOST_DEVICE constexpr bool encodable_magnitude(uint32_t bits) {
  return bits < __builtin_bit_cast(uint32_t, 0x1p100f);
}

/// Below 2^-100 a scale's reciprocal would leave f32, and a gradient is zero.
NIBBLE_HOST_DEVICE constexpr float scale_or_zero(float scale) { return scale < 0x1p-100f ? 0.0f : scale; }

/// Levels at equal distances: value = (code - offset) step + minimum.
struct EqualLevels {
  float step = 0, minimum = 0, offset = 0;
  int last = 0;  ///< code
};

/// Where a codec's levels lie, but for the scale that the message carries.
inline EqualLevels equal_levels(const Codec& codec) {
  const int most = (1 << codec.bits) - 1;
  if (codec.grid == Codec::Grid::sign_and_magnitude) return {.offset = static_cast<float>(most / 2), .last = most - 1};
  if (codec.range == Codec::Range::extremes) return {.last = most};
  return {.offset = static_cast<float>(most) / 2, .last = most};
}
/// From the middle to the last level, in steps; with a minimum from the first.
inline float steps_to_end(const Codec& codec, const EqualLevels& levels) {
  return static_cast<float>(levels.last) - (codec.range == Codec::Range::extremes ? 0 : levels.offset);
}

/// Levels for normal values of 5 to 8 bits, `step` apart.
[[gnu::always_inline]] NIBBLE_HOST_DEVICE constexpr EqualLevels normal_equal_levels(int bits, float step) {
  const int half = 1 << (bits - 1);
  return {.step = step, .minimum = 0, .offset = static_cast<float>(half) - 0.5f, .last = 2 * half - 1};
}

/// One number.
struct OneLane {
  using floats = float;
  using integers = int32_t;

  NIBBLE_HOST_DEVICE static floats number(integers x) { return static_cast<float>(x); }
  NIBBLE_HOST_DEVICE static integers down(floats x) { return static_cast<int32_t>(x); }  // of x >= 0
};

/// EqualLevels in registers: what codes, which are bytes, are stored to could be part of the others.
template <class Lanes>
class LevelsOf {
 public:
  using floats = typename Lanes::floats;
  using integers = typename Lanes::integers;

  [[gnu::always_inline]] NIBBLE_HOST_DEVICE explicit LevelsOf(const EqualLevels& levels)
      : step_(levels.step),
        per_step_(1 / levels.step),
        minimum_(levels.minimum),
        offset_(levels.offset),
        last_(levels.last) {}

  [[gnu::always_inline]] NIBBLE_HOST_DEVICE integers nearest(floats x) const {
    return limited(Lanes::down(position(x) + 0.5f));
  }
  /// `uniform` in (0, 1).
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE integers stochastic(floats x, floats uniform) const {
    const floats at = position(x);
    const integers below = Lanes::down(at), above = below + 1;
    return limited(uniform < at - Lanes::number(below) ? above : below);
  }
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE floats value(integers code) const {
    return (Lanes::number(code) - offset_) * step_ + minimum_;
  }

 private:
  /// Of finite values, not below zero: as integers, whose order is that of the numbers above zero.
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE floats position(floats x) const {
    const integers bits = simd::as<integers>((x - minimum_) * per_step_ + offset_), zero = bits - bits;
    return simd::as<floats>(bits > zero ? bits : zero);
  }
  [[gnu::always_inline]] NIBBLE_HOST_DEVICE integers limited(integers code) const {
    const integers most = code - code + last_;
    return code < most ? code : most;
  }

  float step_, per_step_, minimum_, offset_;
  int last_;
};

/// Levels for normal values, of one value at a time: up to 4 bits a table, of which a code's half tells the sign, else
/// equal distances. What multiplies levels is their deviation.
struct NormalLevels {
  static constexpr int most_of_table = 8;

  int bits = 1;
  float positive[most_of_table] = {};  ///< up to 4 bits
  float middle[most_of_table] = {};    ///< between a level and the next one; infinite behind the last
  float spacing = 0;                   ///< from 5 bits on

  static NormalLevels of(int bits) {
    if (bits > 4) return {.bits = bits, .spacing = normal_spacing(bits)};
    NormalLevels levels{.bits = bits};
    const std::span<const float> of_half = normal_levels(bits);
    for (size_t i = 0; i < most_of_table; ++i) {
      levels.positive[i] = i < of_half.size() ? of_half[i] : 0;
      levels.middle[i] = i + 1 < of_half.size() ? (of_half[i] + of_half[i + 1]) * 0.5f : __builtin_inff();
    }
    return levels;
  }

  NIBBLE_HOST_DEVICE bool in_table() const { return bits <= 4; }

  /// Those of a deviation, from 5 bits on; before, nobody asks them.
  NIBBLE_HOST_DEVICE LevelsOf<OneLane> equal(float deviation) const {
    return LevelsOf<OneLane>(normal_equal_levels(bits, spacing * deviation));
  }
  /// `levels`: equal() of the deviation, whose reciprocal is `per_deviation`.
  NIBBLE_HOST_DEVICE uint32_t code(float x, float per_deviation, const LevelsOf<OneLane>& levels) const {
    if (!in_table()) return static_cast<uint32_t>(levels.nearest(x));
    const float z = x * per_deviation, size = simd::as<float>(simd::as<uint32_t>(z) & 0x7fffffffu);
    const int index = below(size, std::make_index_sequence<most_of_table - 1>());
    const int half = 1 << (bits - 1);
    return static_cast<uint32_t>(z < 0 ? half - 1 - index : half + index);
  }
  /// Of a deviation of one.
  NIBBLE_HOST_DEVICE float unit_level(int code) const {
    return in_table() ? level_in_table(code) : equal(1).value(code);
  }
  /// `levels`: equal() of the scale.
  NIBBLE_HOST_DEVICE float value(int code, float scale, const LevelsOf<OneLane>& levels) const {
    return in_table() ? level_in_table(code) * scale : levels.value(code);
  }

 private:
  // By comparisons with elements whose numbers are constants: they are registers then, a table is memory.
  NIBBLE_HOST_DEVICE float level_in_table(int code) const {
    const int half = 1 << (bits - 1), index = code < half ? half - 1 - code : code - half;
    const float size = level(index, std::make_index_sequence<most_of_table>());
    return code < half ? -size : size;
  }
  template <size_t... i>
  NIBBLE_HOST_DEVICE int below(float size, std::index_sequence<i...>) const {
    return ((size > middle[i] ? 1 : 0) + ...);
  }
  template <size_t... i>
  NIBBLE_HOST_DEVICE float level(int index, std::index_sequence<i...>) const {
    float found = 0;
    ((found = index == static_cast<int>(i) ? positive[i] : found), ...);
    return found;
  }
};

}  // namespace nibble
