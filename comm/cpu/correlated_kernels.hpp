// Codes of correlated quantizers. Part of code_kernels_body.hpp.
//
// A random word belongs to an element, four of them to a block of the generator. Sixty-four elements at a time are
// turned as blocks lie, not the words as elements do: turned codes are four bytes of a number side by side.
#pragma once

#include "comm/cpu/code_kernels.hpp"
#include "comm/cpu/code_lanes.hpp"
#include "quant/cpu/random_lanes.hpp"

namespace nibble {
namespace {

constexpr int64_t turned_elements = 4 * lanes;

/// Words of sixty-four elements from `first` on. Lane 4 g + j of vector w is the word of element 16 j + 4 g + w.
[[gnu::always_inline]] inline simd::RandomLanes turned_words(const RandomStream& stream, uint32_t part, int64_t first) {
  using simd::u64x;
  const u64x even = {0, 8, 1, 9, 2, 10, 3, 11}, odd = {4, 12, 5, 13, 6, 14, 7, 15};  // of lanes 0, 2, ... and 1, 3, ...
  const auto block = static_cast<uint64_t>(first / 4);
  return {stream, part, even + block, odd + block};
}

/// floor(word n / 2^32).
[[gnu::always_inline]] inline u32x scaled_to(u32x word, uint32_t n) {
  using simd::u64x;
  const u64x even = simd::as<u64x>(word), factor = u64x{} + n;
  return simd::as<u32x>(simd::multiply_lower_words(even, factor) >> 32 |
                        (simd::multiply_lower_words(even >> 32, factor) & 0xffffffff00000000u));
}

[[gnu::always_inline]] inline u32x stratum_of(u32x word, const Stratum& of) {
  const u32x turn = scaled_to(word, of.ranks) + of.place, less = turn - of.ranks;
  return turn < less ? turn : less;  // below zero wraps
}

/// One bit, and whether the threshold lies below the value's part p of all strata: stratum + t < p, t in [0, 1) of 24
/// bits. Without f64: p is a product and its rounding error, stratum and t are taken away from the product, and what is
/// left is exact wherever the error could matter (it is at most half of p's last place, and what is not a multiple of
/// that is far from it).
struct OneBit {
  const CorrelatedLevels& levels;
  float ranks;

  [[gnu::always_inline]] i32x operator()(f32x x, u32x stratum, u32x threshold) const {
    const f32x inside = at_most(at_least_zero((x + levels.range) * levels.inverse), 1);
    const f32x p = inside * ranks, error = simd::fma(inside, simd::splat(ranks), -p);
    const f32x left = simd::fma(to_float(simd::as<i32x>(threshold >> 8)), simd::splat(-0x1p-24f),
                                p - to_float(simd::as<i32x>(stratum)));
    const i32x one = i32x{} + 1;
    return left > -error ? one : i32x{};
  }
};

/// Codes of sixteen values: the level below, or the one above where the threshold lies in the value's fraction.
struct SeveralBits {
  const CorrelatedLevels& levels;
  float ranks;

  [[gnu::always_inline]] i32x operator()(f32x x, u32x stratum, u32x threshold) const {
    const f32x along = (x + levels.range) * levels.inverse;
    // 2^52 + stratum 2^24 + threshold, as the bits of doubles.
    const u32x lower = stratum << 24 | threshold >> 8, upper = stratum >> 8 | 0x43300000u;
    const u32x first = __builtin_shufflevector(lower, upper, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
               second =
                   __builtin_shufflevector(lower, upper, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return __builtin_shufflevector(eight(lower_half(along), simd::as<f64x8>(first) - 0x1p52),
                                   eight(upper_half(along), simd::as<f64x8>(second) - 0x1p52), 0, 1, 2, 3, 4, 5, 6, 7,
                                   8, 9, 10, 11, 12, 13, 14, 15);
  }

 private:
  [[gnu::always_inline]] i32x8 eight(f32x8 along, f64x8 t) const {
    const f64x8 zero{}, last = zero + levels.last;
    const f64x8 position = (widen(along) - levels.first) * levels.per_step;
    const f64x8 inside = position > zero ? (position < last ? position : last) : zero;
    const f64x8 below = widen(down(inside)), above = below + 1;
    return down(t < (inside - below) * (double{ranks} * 0x1p24) ? above : below);
  }
};

template <class Codes>
[[gnu::always_inline]] inline void encode_correlated_with(const Codes& codes_of, const Stratum& of,
                                                          std::span<const float> x, const RandomStream& stream,
                                                          uint8_t* codes) {
  const auto size = static_cast<int64_t>(x.size());
  for (int64_t i = 0; i < size; i += turned_elements) {
    const float* from = x.data() + i;
    float rest[turned_elements] = {};
    if (size - i < turned_elements)
      from = static_cast<const float*>(std::memcpy(rest, from, static_cast<size_t>(size - i) * sizeof(float)));
    for (int64_t line = 0; line < turned_elements; line += lanes) prefetch(x.data() + size + i + line);
    f32x values[4] = {simd::load(from), simd::load(from + lanes), simd::load(from + 2 * lanes),
                      simd::load(from + 3 * lanes)};
    turn_groups(values);
    const simd::RandomLanes offsets = turned_words(stream, CodeSource::correlated_offsets, i),
                            thresholds = turned_words(stream, of.thresholds, i);
    u32x four{};
#pragma GCC unroll 4
    for (uint32_t w = 0; w < 4; ++w)
      four |= simd::as<u32x>(codes_of(values[w], stratum_of(offsets.words[w], of), thresholds.words[w])) << 8 * w;
    four = turned(four);
    std::memcpy(codes + i, &four, sizeof four);
  }
}

void encode_correlated(const CorrelatedLevels& levels, const Stratum& of, std::span<const float> x,
                       const RandomStream& stream, uint8_t* codes) {
  const CorrelatedLevels own = levels;  // copies: codes, which are bytes, could be part of the others
  const Stratum stratum = of;
  const RandomStream random = stream;
  const auto ranks = static_cast<float>(of.ranks);
  const bool one_bit = levels.last == 1;
  if (one_bit) encode_correlated_with(OneBit{own, ranks}, stratum, x, random, codes);
  else encode_correlated_with(SeveralBits{own, ranks}, stratum, x, random, codes);
}

}  // namespace
}  // namespace nibble
