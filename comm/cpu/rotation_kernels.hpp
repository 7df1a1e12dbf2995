// Random signs and Hadamard transforms of a bucket. Part of code_kernels_body.hpp.
#pragma once

#include "comm/cpu/code_kernels.hpp"
#include "comm/cpu/code_lanes.hpp"
#include "quant/cpu/random_lanes.hpp"

namespace nibble {
namespace {

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

/// v and its partner at stride h, added where the lane's number has no h, else taken away from the partner.
template <int h>
[[gnu::always_inline]] inline f32x butterfly(f32x v, f32x partner) {
  constexpr u32x index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return partner + simd::as<f32x>(simd::as<u32x>(v) ^ ((index & static_cast<uint32_t>(h))
                                                       << (31 - std::countr_zero(static_cast<uint32_t>(h)))));
}
/// The strides within a vector.
[[gnu::always_inline]] inline f32x transform_lanes(f32x v) {
  v = butterfly<1>(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  v = butterfly<2>(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = butterfly<4>(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  return butterfly<8>(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
}

/// Two strides, h and 2 h, of vectors that lie h apart.
[[gnu::always_inline]] inline void transform_four(f32x (&v)[4]) {
  const f32x sum0 = v[0] + v[1], difference0 = v[0] - v[1], sum1 = v[2] + v[3], difference1 = v[2] - v[3];
  v[0] = sum0 + sum1;
  v[1] = difference0 + difference1;
  v[2] = sum0 - sum1;
  v[3] = difference0 - difference1;
}

/// The strides from `h` on.
void transform_vectors(std::span<float> x, size_t h) {
  const size_t n = x.size();
  for (; 4 * h <= n; h *= 4)
    for (size_t i = 0; i < n; i += 4 * h)
      for (size_t j = i; j < i + h; j += lanes) {
        f32x v[4] = {simd::load(&x[j]), simd::load(&x[j + h]), simd::load(&x[j + 2 * h]), simd::load(&x[j + 3 * h])};
        transform_four(v);
        for (size_t k = 0; k < 4; ++k) simd::store(&x[j + k * h], v[k]);
      }
  if (2 * h > n) return;
  for (size_t j = 0; j < h; j += lanes) {
    const f32x a = simd::load(&x[j]), b = simd::load(&x[j + h]);
    simd::store(&x[j], a + b);
    simd::store(&x[j + h], a - b);
  }
}

/// The transform of what `value(i)` gives, sixteen values from i on.
template <class Value>
[[gnu::always_inline]] inline void transform(std::span<float> x, Value&& value) {
  const size_t n = x.size(), vector = static_cast<size_t>(lanes);
  assert(std::has_single_bit(n) && n >= vector);
  if (n < 4 * vector) {
    for (size_t i = 0; i < n; i += vector) simd::store(&x[i], transform_lanes(value(i)));
    return transform_vectors(x, vector);
  }
  for (size_t i = 0; i < n; i += 4 * vector) {
    f32x v[4];
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; ++k) v[k] = transform_lanes(value(i + k * vector));
    transform_four(v);
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; ++k) simd::store(&x[i + k * vector], v[k]);
  }
  transform_vectors(x, 4 * vector);
}

/// Signs of a bucket: value i takes bit i of the part's words.
class Signs {
 public:
  [[gnu::always_inline]] Signs(const RandomStream& stream, uint32_t part) : stream_(stream), part_(part) {}

  /// Sixteen values from i on, with their signs; i ascends.
  [[gnu::always_inline]] f32x applied(f32x v, size_t i) {
    if (i % of_words == 0) draw(i);
    constexpr u32x lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const size_t within = i % of_words;
    const uint32_t word = words_[within % 128 / 32][within / 128] >> i % 32;
    return simd::as<f32x>(simd::as<u32x>(v) ^ ((u32x{} + word) << (31 - lane) & 0x80000000u));
  }

 private:
  static constexpr size_t of_words = 16 * 128;

  [[gnu::always_inline]] void draw(size_t i) {
    const simd::RandomLanes random(stream_, part_, static_cast<uint32_t>(i / 128), 1);
    std::memcpy(words_, random.words, sizeof words_);
  }

  const RandomStream stream_;
  uint32_t part_;
  alignas(64) uint32_t words_[4][lanes];
};

float normalization(size_t n) { return static_cast<float>(1 / std::sqrt(static_cast<double>(n))); }

void rotate(std::span<const float> values, std::span<float> x, const RandomStream& stream, uint32_t part) {
  Signs signs(stream, part);
  const float factor = normalization(x.size());
  const auto value = [&](size_t i) __attribute__((always_inline)) {
    const int64_t count = static_cast<int64_t>(values.size()) - static_cast<int64_t>(i);
    prefetch(values.data() + values.size() + i);
    const f32x v = count <= 0 ? f32x{} : simd::load_n(values.data() + i, std::min(lanes, count));
    return signs.applied(v * factor, i);
  };
  if (x.size() >= static_cast<size_t>(lanes)) return transform(x, value);
  const f32x few = value(0);
  std::memcpy(x.data(), &few, x.size_bytes());
  transform_few(x);
}

template <bool adds>
void unrotate(std::span<float> x, const RandomStream& stream, uint32_t part, std::span<float> values) {
  if (x.size() < static_cast<size_t>(lanes)) transform_few(x);
  else
    transform(
        x, [&](size_t i) __attribute__((always_inline)) { return simd::load(&x[i]); });
  Signs signs(stream, part);
  const float factor = normalization(x.size());
  simd::for_each_group(static_cast<int64_t>(values.size()), [&](int64_t i, int64_t count) {
    const auto at = static_cast<size_t>(i);
    const f32x v = signs.applied(simd::load_n(&x[at], count) * factor, at);
    simd::store_n(&values[at], adds ? simd::load_n(&values[at], count) + v : v, count);
  });
}

void unrotate(std::span<float> x, const RandomStream& stream, uint32_t part, Decoded decoded, std::span<float> values) {
  if (decoded == Decoded::replaces) unrotate<false>(x, stream, part, values);
  else unrotate<true>(x, stream, part, values);
}

}  // namespace
}  // namespace nibble
