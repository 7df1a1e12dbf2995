// What codes' kernels do across lanes: bytes and sixteen numbers, tables, rows of four.
//
// The compiler takes conversions to bytes and variable shuffles apart, lane by lane; here they are instructions.
// Not for: arithmetic of lanes each for itself (tensor/simd.hpp).
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>

#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;
using simd::f64x;
using simd::i32x;
using simd::lanes;
using simd::u32x;

#if !defined(NIBBLE_TILES_FOR_AVX512) && defined(__AVX2__)
/// Sixteen lanes as AVX2 has them.
struct Halves {
  __m256i half[2];
};
#endif

/// The next bucket lies behind this one, and is fetched while this one is worked on; an address may be any.
[[gnu::always_inline]] inline void prefetch(const float* address) { __builtin_prefetch(address); }

using f64x8 = double __attribute__((vector_size(64)));
using f32x8 = float __attribute__((vector_size(32)));
using i32x8 = int32_t __attribute__((vector_size(32)));

[[gnu::always_inline]] inline f32x8 lower_half(f32x v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7); }
[[gnu::always_inline]] inline f32x8 upper_half(f32x v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
#if defined(NIBBLE_TILES_FOR_AVX512)
// All lanes of masked forms, here and below: GCC 12 takes the others' unused operand for an uninitialized variable.
[[gnu::always_inline]] inline f64x8 widen(f32x8 v) { return _mm512_maskz_cvtps_pd(0xff, v); }
[[gnu::always_inline]] inline f64x8 widen(i32x8 v) {
  return _mm512_maskz_cvtepi32_pd(0xff, reinterpret_cast<__m256i>(v));
}
[[gnu::always_inline]] inline i32x8 down(f64x8 v) {  // of v >= 0
  return reinterpret_cast<i32x8>(_mm512_maskz_cvttpd_epi32(0xff, v));
}
#else
[[gnu::always_inline]] inline f64x8 widen(f32x8 v) { return __builtin_convertvector(v, f64x8); }
[[gnu::always_inline]] inline f64x8 widen(i32x8 v) { return __builtin_convertvector(v, f64x8); }
[[gnu::always_inline]] inline i32x8 down(f64x8 v) { return __builtin_convertvector(v, i32x8); }
#endif

/// A sum of products, as simd::sum of sixteen lanes: but two times eight lanes stay in registers.
class SumOfProducts {
 public:
  [[gnu::always_inline]] void add(f32x a, f32x b) {
    lower_ += widen(lower_half(a)) * widen(lower_half(b));
    upper_ += widen(upper_half(a)) * widen(upper_half(b));
  }
  double value() const {
    f64x all;
    std::memcpy(&all, &lower_, sizeof lower_);
    std::memcpy(reinterpret_cast<char*>(&all) + sizeof lower_, &upper_, sizeof upper_);
    return simd::sum(all);
  }

 private:
  f64x8 lower_{}, upper_{};
};

/// Numbers of 0 ... 255, a byte each.
[[gnu::always_inline]] inline void store_codes(uint8_t* to, i32x codes) {
#if defined(NIBBLE_TILES_FOR_AVX512)
  const __m128i bytes = _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(codes));
#elif defined(__AVX2__)
  const Halves x = simd::as<Halves>(codes);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.half[0], x.half[1]), 0xd8);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
#else
  using u8x = uint8_t __attribute__((vector_size(16)));
  const u8x bytes = __builtin_convertvector(simd::as<u32x>(codes), u8x);
#endif
  std::memcpy(to, &bytes, sizeof bytes);
}

[[gnu::always_inline]] inline i32x load_codes(const uint8_t* from) {
#if defined(NIBBLE_TILES_FOR_AVX512)
  __m128i bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return reinterpret_cast<i32x>(_mm512_maskz_cvtepu8_epi32(0xffff, bytes));
#elif defined(__AVX2__)
  __m128i bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return simd::as<i32x>(Halves{{_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))}});
#else
  using u8x = uint8_t __attribute__((vector_size(16)));
  u8x bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, i32x);
#endif
}

[[gnu::always_inline]] inline f32x to_float(i32x x) { return __builtin_convertvector(x, f32x); }
[[gnu::always_inline]] inline i32x down(f32x x) { return __builtin_convertvector(x, i32x); }  // of x >= 0

// Limits of numbers that are no NaN, as integers: bits of positive numbers are in the order of the numbers, and those
// of negative ones are negative integers.
[[gnu::always_inline]] inline f32x at_least_zero(f32x x) {
  const i32x bits = simd::as<i32x>(x), zero{};
  return simd::as<f32x>(bits > zero ? bits : zero);
}
[[gnu::always_inline]] inline f32x at_most(f32x x, float most) {  // of most >= 0
  const i32x bits = simd::as<i32x>(x), limit = simd::as<i32x>(simd::splat(most));
  return simd::as<f32x>(bits < limit ? bits : limit);
}

/// A table of eight, in each lane the number that the lane's index says.
class TableOfEight {
 public:
  [[gnu::always_inline]] explicit TableOfEight(const float (&entries)[8]) {
    for (int64_t i = 0; i < lanes; ++i) entries_[i] = entries[i % 8];
  }
  [[gnu::always_inline]] f32x operator[](i32x index) const {
#if defined(NIBBLE_TILES_FOR_AVX512)
    return reinterpret_cast<f32x>(_mm512_maskz_permutexvar_ps(0xffff, reinterpret_cast<__m512i>(index),
                                                              reinterpret_cast<__m512>(simd::load(entries_))));
#elif defined(__AVX2__)
    const Halves i = simd::as<Halves>(index);
    const __m256i table = simd::as<Halves>(simd::load(entries_)).half[0];
    return simd::as<f32x>(
        Halves{{_mm256_permutevar8x32_epi32(table, i.half[0]), _mm256_permutevar8x32_epi32(table, i.half[1])}});
#else
    f32x found{};
    for (int64_t lane = 0; lane < lanes; ++lane) found[lane] = entries_[index[lane]];
    return found;
#endif
  }

 private:
  alignas(64) float entries_[lanes];
};

/// In each group of four lanes: a0 b0 a1 b1, or a2 b2 a3 b3.
template <bool upper>
[[gnu::always_inline]] inline f32x interleaved(f32x a, f32x b) {
#if !defined(NIBBLE_TILES_FOR_AVX512) && defined(__AVX2__)
  const Halves x = simd::as<Halves>(a), y = simd::as<Halves>(b);
  if constexpr (upper)
    return simd::as<f32x>(
        Halves{{_mm256_unpackhi_epi32(x.half[0], y.half[0]), _mm256_unpackhi_epi32(x.half[1], y.half[1])}});
  else
    return simd::as<f32x>(
        Halves{{_mm256_unpacklo_epi32(x.half[0], y.half[0]), _mm256_unpacklo_epi32(x.half[1], y.half[1])}});
#else
  constexpr int i = upper ? 2 : 0;
  return __builtin_shufflevector(a, b, i, i + 16, i + 1, i + 17, i + 4, i + 20, i + 5, i + 21, i + 8, i + 24, i + 9,
                                 i + 25, i + 12, i + 28, i + 13, i + 29);
#endif
}

/// Each group of four lanes of four vectors is turned as a square: lane 4 g + j of vector w takes lane 4 g + w of
/// vector j.
[[gnu::always_inline]] inline void turn_groups(f32x (&v)[4]) {
  // Rows 0 and 2 before 1 and 3, so that interleaving twice turns.
  const f32x a = interleaved<false>(v[0], v[2]), b = interleaved<false>(v[1], v[3]), c = interleaved<true>(v[0], v[2]),
             d = interleaved<true>(v[1], v[3]);
  v[0] = interleaved<false>(a, b);
  v[1] = interleaved<true>(a, b);
  v[2] = interleaved<false>(c, d);
  v[3] = interleaved<true>(c, d);
}

/// Lane 4 g + j becomes lane 4 j + g.
[[gnu::always_inline]] inline u32x turned(u32x v) {
  return __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

}  // namespace
}  // namespace nibble
