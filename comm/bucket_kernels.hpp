// Values of one bucket to codes of a byte each and back, in vectors. Part of bucket_codec.cpp.
//
// Codes are stored in whole vectors: their memory is a multiple of sixteen.
#pragma once

#include "comm/codec.hpp"
#include "comm/normal_levels.hpp"
#include "quant/arithmetic.hpp"
#include "quant/cpu/random_lanes.hpp"
#include "tensor/random.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;
using simd::i32x;
using simd::lanes;
using simd::u32x;

/// Below 2^-100 a scale's reciprocal would leave f32, and a gradient is zero.
constexpr float smallest_scale = 0x1p-100f;
inline float scale_or_zero(float scale) { return scale < smallest_scale ? 0.0f : scale; }
inline float reciprocal_or_zero(float scale) { return scale == 0 ? 0.0f : 1 / scale; }

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

/// Levels at equal distances: value = (code - offset) step + minimum.
struct EqualLevels {
  float step = 0, minimum = 0, offset = 0;
  int last = 0;  ///< code

  [[gnu::always_inline]] f32x position(f32x x) const {
    const f32x at = (x - minimum) * reciprocal_or_zero(step) + offset;
    const f32x zero{};
    return at > zero ? at : zero;
  }
  [[gnu::always_inline]] i32x limited(i32x code) const {
    const i32x most = i32x{} + last;
    return code < most ? code : most;
  }
};

void encode_nearest(const EqualLevels& levels, std::span<const float> x, uint8_t* codes) {
  if (levels.step == 0) return static_cast<void>(std::memset(codes, static_cast<int>(levels.offset), x.size()));
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    store_codes(codes + i, levels.limited(down(levels.position(simd::load_n(x.data() + i, count)) + 0.5f)));
  });
}

void encode_stochastic(const EqualLevels& levels, std::span<const float> x, const RandomStream& stream, uint32_t part,
                       uint8_t* codes) {
  if (levels.step == 0) return static_cast<void>(std::memset(codes, static_cast<int>(levels.offset), x.size()));
  for_each_with_uniform(static_cast<int64_t>(x.size()), stream, part, [&](int64_t i, int64_t count, f32x uniform) {
    const f32x at = levels.position(simd::load_n(x.data() + i, count));
    const i32x below = down(at);
    store_codes(codes + i, levels.limited(below - (uniform < at - to_float(below))));  // a lane's true is -1
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

void decode_table(std::span<const float> of_code, const uint8_t* codes, std::span<float> x) {
  for (size_t i = 0; i < x.size(); ++i) x[i] = of_code[codes[i]];
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

}  // namespace
}  // namespace nibble
