// Codes of levels at equal distances, of levels for normal values, and of E4M3. Part of code_kernels_body.hpp.
#pragma once

#include "comm/cpu/code_kernels.hpp"
#include "comm/cpu/code_lanes.hpp"
#include "comm/level_arithmetic.hpp"
#include "quant/arithmetic.hpp"
#include "quant/cpu/random_lanes.hpp"

namespace nibble {
namespace {

/// Calls body(i, count, uniform) for each sixteen values with sixteen numbers in (0, 1) of 16 bits.
template <class Body>
[[gnu::always_inline]] inline void for_each_with_uniform(std::span<const float> x, const RandomStream& of,
                                                         uint32_t part, Body&& body) {
  const auto n = static_cast<int64_t>(x.size());
  const float* const ahead = x.data() + n;
  const RandomStream stream = of;  // a copy: codes, which are bytes, could be part of the other
  constexpr int64_t at_once = 8 * lanes;
  int64_t first = 0;
  for (; first + at_once <= n; first += at_once) {
    const simd::RandomLanes random(stream, part, static_cast<uint32_t>(first / 8), 1);
#pragma GCC unroll 8
    for (int v = 0; v < 8; ++v) {
      prefetch(ahead + first + v * lanes);
      body(first + v * lanes, lanes, random.uniform(v));
    }
  }
  if (first == n) return;
  const simd::RandomLanes random(stream, part, static_cast<uint32_t>(first / 8), 1);
  for (int v = 0; first + v * lanes < n; ++v) {
    const int64_t i = first + v * lanes;
    body(i, std::min(lanes, n - i), random.uniform(v));
  }
}

template <bool adds>
[[gnu::always_inline]] inline void put(f32x value, float* to, int64_t count) {
  simd::store_n(to, adds ? simd::load_n(to, count) + value : value, count);
}
/// Calls put<adds>(value(codes), ...) for each sixteen codes.
template <bool adds, class Value>
[[gnu::always_inline]] inline void decode_each(const uint8_t* codes, std::span<float> x, Value&& value) {
  simd::for_each_group(static_cast<int64_t>(x.size()),
                       [&](int64_t i, int64_t count) { put<adds>(value(load_codes(codes + i)), x.data() + i, count); });
}
template <class Value>
[[gnu::always_inline]] inline void decode_each(const uint8_t* codes, Decoded decoded, std::span<float> x,
                                               Value&& value) {
  if (decoded == Decoded::replaces) decode_each<false>(codes, x, value);
  else decode_each<true>(codes, x, value);
}

/// What LevelsOf is of.
struct SixteenLanes {
  using floats = f32x;
  using integers = i32x;

  [[gnu::always_inline]] static floats number(integers x) { return to_float(x); }
  [[gnu::always_inline]] static integers down(floats x) { return nibble::down(x); }
};
using LevelsOfVector = LevelsOf<SixteenLanes>;

void encode_nearest(const EqualLevels& levels, std::span<const float> x, uint8_t* codes) {
  if (levels.step == 0) return static_cast<void>(std::memset(codes, static_cast<int>(levels.offset), x.size()));
  const LevelsOfVector of(levels);
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    prefetch(x.data() + i + x.size());
    store_codes(codes + i, of.nearest(simd::load_n(x.data() + i, count)));
  });
}

void encode_stochastic(const EqualLevels& levels, std::span<const float> x, const RandomStream& stream, uint32_t part,
                       uint8_t* codes) {
  if (levels.step == 0) return static_cast<void>(std::memset(codes, static_cast<int>(levels.offset), x.size()));
  const LevelsOfVector of(levels);
  for_each_with_uniform(x, stream, part, [&](int64_t i, int64_t count, f32x uniform) {
    store_codes(codes + i, of.stochastic(simd::load_n(x.data() + i, count), uniform));
  });
}

void decode_levels(const EqualLevels& levels, const uint8_t* codes, Decoded decoded, std::span<float> x) {
  const LevelsOfVector of(levels);
  decode_each(
      codes, decoded, x, [&](i32x code) __attribute__((always_inline)) { return of.value(code); });
}

// Levels for normal values. Up to four bits they stand in a table, of which a code's half tells the sign.

template <int bits>
struct NormalTable {
  static constexpr int half = 1 << (bits - 1);

  TableOfEight positive;

  [[gnu::always_inline]] explicit NormalTable(float scale) : positive(entries(scale)) {}

  /// Of a magnitude, in units of one deviation: bit by bit, each against the middle threshold of what is left.
  [[gnu::always_inline]] i32x index(f32x size) const {
    i32x index{};
    if constexpr (half >= 8) index = with_bit<4>(index, size, middle4);
    if constexpr (half >= 4) index = with_bit<2>(index, size, middle2);
    if constexpr (half >= 2) index = with_bit<1>(index, size, middle1);
    return index;
  }
  [[gnu::always_inline]] static i32x code(i32x index, f32x z) {
    const i32x above = half + index, below = half - 1 - index;
    return z < f32x{} ? below : above;
  }
  [[gnu::always_inline]] f32x value(i32x code) const {
    const i32x other = half - 1 - code, index = code < half ? other : code - half;
    const u32x sign = simd::as<u32x>(code < half) & 0x80000000u;
    return simd::as<f32x>(simd::as<u32x>(positive[index]) | sign);
  }

 private:
  template <int bit>
  [[gnu::always_inline]] static i32x with_bit(i32x index, f32x size, const TableOfEight& middle) {
    const i32x more = index | bit;
    return size > middle[index] ? more : index;
  }
  static TableOfEight entries(float scale) {
    float made[8]{};
    for (int i = 0; i < half; ++i) made[i] = scale * normal_levels(bits)[static_cast<size_t>(i)];
    return TableOfEight(made);
  }
  /// By index without the bit: between the level below the one with it and that one.
  static TableOfEight middles(int bit) {
    float made[8]{};
    const std::span<const float> levels = normal_levels(bits);
    for (int i = 0; i + bit < half; ++i) {
      const auto above = static_cast<size_t>(i + bit);
      made[i] = (levels[above - 1] + levels[above]) * 0.5f;
    }
    return TableOfEight(made);
  }

  TableOfEight middle4 = middles(4), middle2 = middles(2), middle1 = middles(1);
};

/// encode(x) gives a code and its level.
template <bool with_levels, class Encode>
[[gnu::always_inline]] inline NormalProducts encode_normal_with(std::span<const float> x, uint8_t* codes,
                                                                Encode&& encode) {
  SumOfProducts products, squares;
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    const f32x z = simd::load_n(x.data() + i, count);
    const auto [code, level] = encode(z);
    store_codes(codes + i, code);
    constexpr i32x lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const f32x own = count == lanes ? level : lane < static_cast<int32_t>(count) ? level : f32x{};
    products.add(z, own);
    if constexpr (with_levels) squares.add(own, own);
  });
  return {products.value(), squares.value()};
}
struct CodeAndLevel {
  i32x code;
  f32x level;
};

template <int bits, bool with_levels>
NormalProducts encode_normal_of_table(float deviation, std::span<const float> x, uint8_t* codes) {
  const NormalTable<bits> table(1);
  const float scale = 1 / deviation;
  return encode_normal_with<with_levels>(
      x, codes, [&](f32x v) __attribute__((always_inline)) {
        const f32x z = v * scale;
        const i32x index = table.index(magnitude(z));
        const u32x sign = simd::as<u32x>(z < f32x{}) & 0x80000000u;
        return CodeAndLevel{table.code(index, z), simd::as<f32x>(simd::as<u32x>(table.positive[index]) | sign)};
      });
}
template <bool with_levels>
NormalProducts encode_normal_of_many(int bits, float deviation, std::span<const float> x, uint8_t* codes) {
  const float spacing = normal_spacing(bits);
  const LevelsOfVector of(normal_equal_levels(bits, spacing * deviation)), unit(normal_equal_levels(bits, spacing));
  return encode_normal_with<with_levels>(
      x, codes, [&](f32x v) __attribute__((always_inline)) {
        const i32x code = of.nearest(v);
        return CodeAndLevel{code, unit.value(code)};
      });
}
template <bool with_levels>
NormalProducts encode_normal(int bits, float deviation, std::span<const float> x, uint8_t* codes) {
  switch (bits) {
    case 1:
      return encode_normal_of_table<1, with_levels>(deviation, x, codes);
    case 2:
      return encode_normal_of_table<2, with_levels>(deviation, x, codes);
    case 3:
      return encode_normal_of_table<3, with_levels>(deviation, x, codes);
    case 4:
      return encode_normal_of_table<4, with_levels>(deviation, x, codes);
    default:
      return encode_normal_of_many<with_levels>(bits, deviation, x, codes);
  }
}
NormalProducts encode_normal(int bits, float deviation, Codec::Scale scale, std::span<const float> x, uint8_t* codes) {
  return scale == Codec::Scale::least_error ? encode_normal<true>(bits, deviation, x, codes)
                                            : encode_normal<false>(bits, deviation, x, codes);
}

template <int bits>
void decode_normal_of_table(float scale, const uint8_t* codes, Decoded decoded, std::span<float> x) {
  const NormalTable<bits> table(scale);
  decode_each(
      codes, decoded, x, [&](i32x code) __attribute__((always_inline)) { return table.value(code); });
}
void decode_normal(int bits, float scale, const uint8_t* codes, Decoded decoded, std::span<float> x) {
  switch (bits) {
    case 1:
      return decode_normal_of_table<1>(scale, codes, decoded, x);
    case 2:
      return decode_normal_of_table<2>(scale, codes, decoded, x);
    case 3:
      return decode_normal_of_table<3>(scale, codes, decoded, x);
    case 4:
      return decode_normal_of_table<4>(scale, codes, decoded, x);
    default:
      return decode_levels(normal_equal_levels(bits, normal_spacing(bits) * scale), codes, decoded, x);
  }
}

void encode_float8(float scale, Codec::Rounding rounding, std::span<const float> x, const RandomStream& stream,
                   uint32_t part, uint8_t* codes) {
  if (scale == 0) return static_cast<void>(std::memset(codes, 0, x.size()));
  const auto n = static_cast<int64_t>(x.size());
  if (rounding == Codec::Rounding::nearest)
    return simd::for_each_group(n, [&](int64_t i, int64_t count) {
      prefetch(x.data() + i + x.size());
      const f32x rounded = round_nearest(simd::load_n(x.data() + i, count) / scale, formats::e4m3);
      store_codes(codes + i, simd::as<i32x>(encode(rounded, formats::e4m3)));
    });
  for_each_with_uniform(x, stream, part, [&](int64_t i, int64_t count, f32x uniform) {
    const f32x rounded = round_stochastic(simd::load_n(x.data() + i, count) / scale, uniform, formats::e4m3);
    store_codes(codes + i, simd::as<i32x>(encode(rounded, formats::e4m3)));
  });
}

void decode_float8(float scale, const uint8_t* codes, Decoded decoded, std::span<float> x) {
  decode_each(
      codes, decoded, x, [&](i32x code) __attribute__((always_inline)) {
        return nibble::decode<f32x>(simd::as<u32x>(code), formats::e4m3) * scale;
      });
}

}  // namespace
}  // namespace nibble
