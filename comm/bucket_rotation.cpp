#include "comm/bucket_rotation.hpp"

#include <bit>
#include <cassert>
#include <cmath>

#include "comm/code_source.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;
using simd::i32x;
using simd::lanes;
using simd::u32x;

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

}  // namespace

void rotate_bucket(std::span<float> x, const RandomStream& stream, uint32_t part) {
  multiply_by_signs(x, normalization(x.size()), stream, part);
  transform(x);
}

void unrotate_bucket(std::span<float> x, const RandomStream& stream, uint32_t part) {
  transform(x);
  multiply_by_signs(x, normalization(x.size()), stream, part);
}

}  // namespace nibble
