// The kernels themselves; included by code_kernels_avx2.cpp and code_kernels_avx512.cpp, each for its instruction set.
#pragma once

#include "comm/cpu/code_kernels.hpp"
#include "quant/arithmetic.hpp"
#include "quant/cpu/random_lanes.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;
using simd::f64x;
using simd::i32x;
using simd::lanes;
using simd::u32x;

[[gnu::always_inline]] inline void store_codes(uint8_t* to, i32x codes) {
  using u8x = uint8_t __attribute__((vector_size(16)));
  const u8x bytes = __builtin_convertvector(simd::as<u32x>(codes), u8x);
  std::memcpy(to, &bytes, sizeof bytes);
}
[[gnu::always_inline]] inline i32x load_codes(const uint8_t* from) {
  using u8x = uint8_t __attribute__((vector_size(16)));
  u8x bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, i32x);
}
[[gnu::always_inline]] inline f32x to_float(i32x x) { return __builtin_convertvector(x, f32x); }
[[gnu::always_inline]] inline i32x down(f32x x) { return __builtin_convertvector(x, i32x); }  // of x >= 0

/// Calls body(i, count, uniform) for each sixteen values; uniform() gives sixteen numbers in (0, 1) of 16 bits.
template <class Body>
[[gnu::always_inline]] inline void for_each_with_uniform(int64_t n, const RandomStream& stream, uint32_t part,
                                                         Body&& body) {
  constexpr int64_t at_once = 8 * lanes;
  for (int64_t first = 0; first < n; first += at_once) {
    const simd::RandomLanes random(stream, part, static_cast<uint32_t>(first / 8), 1);
    for (int v = 0; v < 8 && first + v * lanes < n; ++v) {
      const int64_t i = first + v * lanes;
      body(i, std::min(lanes, n - i), random.uniform(v));
    }
  }
}

[[gnu::always_inline]] inline f32x position(const EqualLevels& levels, f32x x) {
  const f32x at = (x - levels.minimum) * (1 / levels.step) + levels.offset;
  const f32x zero{};
  return at > zero ? at : zero;
}
[[gnu::always_inline]] inline i32x limited(const EqualLevels& levels, i32x code) {
  const i32x most = i32x{} + levels.last;
  return code < most ? code : most;
}

void encode_nearest(const EqualLevels& levels, std::span<const float> x, uint8_t* codes) {
  if (levels.step == 0) return static_cast<void>(std::memset(codes, static_cast<int>(levels.offset), x.size()));
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    store_codes(codes + i, limited(levels, down(position(levels, simd::load_n(x.data() + i, count)) + 0.5f)));
  });
}

void encode_stochastic(const EqualLevels& levels, std::span<const float> x, const RandomStream& stream, uint32_t part,
                       uint8_t* codes) {
  if (levels.step == 0) return static_cast<void>(std::memset(codes, static_cast<int>(levels.offset), x.size()));
  for_each_with_uniform(static_cast<int64_t>(x.size()), stream, part, [&](int64_t i, int64_t count, f32x uniform) {
    const f32x at = position(levels, simd::load_n(x.data() + i, count));
    const i32x below = down(at);
    store_codes(codes + i, limited(levels, below - (uniform < at - to_float(below))));  // a lane's true is -1
  });
}

void decode_levels(const EqualLevels& levels, const uint8_t* codes, std::span<float> x) {
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    simd::store_n(x.data() + i, (to_float(load_codes(codes + i)) - levels.offset) * levels.step + levels.minimum,
                  count);
  });
}

/// Codes ascend with the levels. `scale`: what a value is multiplied with to become standard normal.
void encode_normal(int bits, float scale, std::span<const float> x, uint8_t* codes) {
  const std::span<const float> positive = normal_levels(bits);
  const int half = 1 << (bits - 1);
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    const f32x z = simd::load_n(x.data() + i, count) * scale, size = magnitude(z);
    i32x above{};
    for (size_t t = 1; t < positive.size(); ++t) above -= size > (positive[t - 1] + positive[t]) * 0.5f;
    store_codes(codes + i, z < f32x{} ? half - 1 - above : half + above);
  });
}

void encode_float8(float scale, Codec::Rounding rounding, std::span<const float> x, const RandomStream& stream,
                   uint32_t part, uint8_t* codes) {
  if (scale == 0) return static_cast<void>(std::memset(codes, 0, x.size()));
  const auto n = static_cast<int64_t>(x.size());
  if (rounding == Codec::Rounding::nearest)
    return simd::for_each_group(n, [&](int64_t i, int64_t count) {
      const f32x rounded = round_nearest(simd::load_n(x.data() + i, count) / scale, formats::e4m3);
      store_codes(codes + i, simd::as<i32x>(encode(rounded, formats::e4m3)));
    });
  for_each_with_uniform(n, stream, part, [&](int64_t i, int64_t count, f32x uniform) {
    const f32x rounded = round_stochastic(simd::load_n(x.data() + i, count) / scale, uniform, formats::e4m3);
    store_codes(codes + i, simd::as<i32x>(encode(rounded, formats::e4m3)));
  });
}

void decode_float8(float scale, const uint8_t* codes, std::span<float> x) {
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    const f32x value = nibble::decode<f32x>(simd::as<u32x>(load_codes(codes + i)), formats::e4m3);
    simd::store_n(x.data() + i, value * scale, count);
  });
}

/// Words of a part of the stream in the order of their elements, sixty-four at a time.
struct Words {
  u32x of_group[4];

  [[gnu::always_inline]] Words(const RandomStream& stream, uint32_t part, int64_t first) {
    const simd::RandomLanes random(stream, part, static_cast<uint32_t>(first / 4), 1);
    alignas(64) uint32_t words[4][lanes];
    std::memcpy(words, random.words, sizeof words);
    for (int element = 0; element < 4 * lanes; ++element)
      of_group[element / lanes][element % lanes] = words[element % 4][element / 4];
  }
};

/// floor(word n / 2^32) for n < 2^16.
[[gnu::always_inline]] inline u32x scaled_to(u32x word, uint32_t n) {
  return ((word >> 16) * n + ((word & 0xffffu) * n >> 16)) >> 16;
}

/// Codes of sixteen values: the level below, or the one above where the threshold lies in the value's fraction.
[[gnu::always_inline]] inline i32x correlated_codes(f32x x, const CorrelatedLevels& levels, u32x stratum,
                                                    u32x threshold, double ranks) {
  const f64x position = (simd::widen((x + levels.range) * levels.inverse) - levels.first) * levels.per_step;
  const f64x zero{}, last = zero + levels.last;
  const f64x inside = position > zero ? (position < last ? position : last) : zero;
  const i32x below = __builtin_convertvector(inside, i32x);
  const f64x fraction = inside - __builtin_convertvector(below, f64x);
  const f64x t = __builtin_convertvector(simd::as<i32x>(stratum), f64x) * 0x1p24 +
                 __builtin_convertvector(simd::as<i32x>(threshold >> 8), f64x);
  const auto above = t < fraction * ranks * 0x1p24;  // true is -1
  return below - __builtin_convertvector(above, i32x);
}

void encode_correlated(const CorrelatedLevels& levels, const Stratum& of, std::span<const float> x,
                       const RandomStream& stream, uint8_t* codes) {
  const auto size = static_cast<int64_t>(x.size());
  for (int64_t i = 0; i < size; i += 4 * lanes) {
    const Words offsets(stream, CodeSource::correlated_offsets, i), thresholds(stream, of.thresholds, i);
    for (int group = 0; group < 4 && i + group * lanes < size; ++group) {
      const int64_t at = i + group * lanes;
      const f32x values = simd::load_n(x.data() + at, std::min(lanes, size - at));
      const u32x turned = scaled_to(offsets.of_group[group], of.ranks) + of.place;
      const u32x stratum = turned >= of.ranks ? turned - of.ranks : turned;
      store_codes(codes + at, correlated_codes(values, levels, stratum, thresholds.of_group[group], of.ranks));
    }
  }
}

/// Sylvester's transform by ascending stride, not normalized, of fewer values than a vector has lanes.
void transform_few(std::span<float> x) {
  for (size_t h = 1; h < x.size(); h *= 2)
    for (size_t i = 0; i < x.size(); ++i)
      if ((i & h) == 0) {
        const float a = x[i], b = x[i + h];
        x[i] = a + b;
        x[i + h] = a - b;
      }
}

/// The strides within a vector.
[[gnu::always_inline]] inline f32x transform_lanes(f32x v) {
  constexpr i32x index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
  for (int h = 1; h < lanes; h *= 2) {
    const f32x partner = __builtin_shuffle(v, index ^ h);
    v = (index & h) == 0 ? v + partner : partner - v;
  }
  return v;
}

/// The strides between vectors.
void transform_vectors(std::span<float> x) {
  const size_t n = x.size();
  size_t h = static_cast<size_t>(lanes);
  for (; 4 * h <= n; h *= 4)
    for (size_t i = 0; i < n; i += 4 * h)
      for (size_t j = i; j < i + h; j += lanes) {
        float* at[4] = {&x[j], &x[j + h], &x[j + 2 * h], &x[j + 3 * h]};
        const f32x a = simd::load(at[0]), b = simd::load(at[1]), c = simd::load(at[2]), d = simd::load(at[3]);
        const f32x sum0 = a + b, difference0 = a - b, sum1 = c + d, difference1 = c - d;
        simd::store(at[0], sum0 + sum1);
        simd::store(at[1], difference0 + difference1);
        simd::store(at[2], sum0 - sum1);
        simd::store(at[3], difference0 - difference1);
      }
  if (2 * h > n) return;
  for (size_t j = 0; j < h; j += lanes) {
    const f32x a = simd::load(&x[j]), b = simd::load(&x[j + h]);
    simd::store(&x[j], a + b);
    simd::store(&x[j + h], a - b);
  }
}

/// x times `factor` and the signs: value i takes bit i of the part's words.
void multiply_by_signs(std::span<float> x, float factor, const RandomStream& stream, uint32_t part) {
  constexpr u32x lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  PhiloxBlock words{};
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    if (i % 128 == 0) words = stream.block((uint64_t{part} << 32) + static_cast<uint64_t>(i / 128));
    const u32x bits = (lane - lane) + (words[static_cast<size_t>(i % 128 / 32)] >> (i % 32));
    const f32x v = simd::load_n(&x[static_cast<size_t>(i)], count) * factor;
    simd::store_n(&x[static_cast<size_t>(i)], simd::as<f32x>(simd::as<u32x>(v) ^ (bits >> lane) << 31), count);
  });
}

void transform(std::span<float> x) {
  assert(std::has_single_bit(x.size()));
  if (x.size() < static_cast<size_t>(lanes)) return transform_few(x);
  for (size_t i = 0; i < x.size(); i += lanes) simd::store(&x[i], transform_lanes(simd::load(&x[i])));
  transform_vectors(x);
}

float normalization(size_t n) { return static_cast<float>(1 / std::sqrt(static_cast<double>(n))); }

void rotate(std::span<float> x, const RandomStream& stream, uint32_t part) {
  multiply_by_signs(x, normalization(x.size()), stream, part);
  transform(x);
}

void unrotate(std::span<float> x, const RandomStream& stream, uint32_t part) {
  transform(x);
  multiply_by_signs(x, normalization(x.size()), stream, part);
}

constexpr CodeKernels compiled{encode_nearest, encode_stochastic, decode_levels, encode_normal, encode_float8,
                               decode_float8,  encode_correlated, rotate,        unrotate};

}  // namespace
}  // namespace nibble
