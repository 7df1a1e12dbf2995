// Sixteen lanes of float, in GCC's vector extension: one AVX-512 register, two AVX2 registers.
//
// Kernels are written once with these and compiled for both instruction sets (stream.hpp). Sums go over sixteen
// running lanes and one fixed tree, so results do not depend on the instruction set.
// Not for: GEMM (gemm.hpp).
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor/dtype.hpp"
#include "tensor/exponential.hpp"
#include "tensor/real.hpp"

// Every function here: a call that passes vectors from code for AVX-512 to code for AVX2 would pass them wrongly.
#define NIBBLE_INLINE [[gnu::always_inline]] inline

namespace nibble::simd {

inline constexpr int64_t lanes = 16;

using f32x = float __attribute__((vector_size(64)));
using i32x = int32_t __attribute__((vector_size(64)));
using u32x = uint32_t __attribute__((vector_size(64)));
using u16x = uint16_t __attribute__((vector_size(32)));
using f64x = double __attribute__((vector_size(128)));

/// Subtracting zero changes no value, so the compiler leaves the broadcast alone (adding zero would turn -0 into 0).
NIBBLE_INLINE f32x splat(float value) { return value - f32x{}; }

NIBBLE_INLINE f32x sqrt(f32x x) {
  f32x root;
  for (int lane = 0; lane < lanes; ++lane) root[lane] = __builtin_sqrtf(x[lane]);
  return root;
}

}  // namespace nibble::simd

namespace nibble {

template <>
struct RealTraits<simd::f32x> {
  using Bits = simd::u32x;
  using Integers = simd::i32x;
  using Mask = simd::i32x;

  NIBBLE_INLINE static simd::f32x constant(float value) { return simd::splat(value); }
  NIBBLE_INLINE static simd::f32x number(simd::i32x integers) { return __builtin_convertvector(integers, simd::f32x); }
  NIBBLE_INLINE static simd::f32x square_root(simd::f32x x) { return simd::sqrt(x); }
  NIBBLE_INLINE static simd::i32x all() { return simd::i32x{} - 1; }
  NIBBLE_INLINE static simd::u32x ones(simd::i32x mask) { return simd::as<simd::u32x>(mask) & 1u; }
};

}  // namespace nibble

namespace nibble::simd {

NIBBLE_INLINE f32x load(const float* p) {
  f32x v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
NIBBLE_INLINE void store(float* p, f32x v) { std::memcpy(p, &v, sizeof v); }

/// Past the caches: a line is not read before it is written, which halves what writing a large vector costs. p stands
/// on a multiple of 64 bytes; other threads see it behind `finish_streaming`.
NIBBLE_INLINE void stream(float* p, f32x v) {
#if defined(__x86_64__)
  __m256 half[2];
  std::memcpy(half, &v, sizeof v);
  _mm256_stream_ps(p, half[0]);
  _mm256_stream_ps(p + 8, half[1]);
#else
  store(p, v);
#endif
}
NIBBLE_INLINE void finish_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

NIBBLE_INLINE f32x load(const bf16* p) {
  u16x half;
  std::memcpy(&half, p, sizeof half);
  return as<f32x>(__builtin_convertvector(half, u32x) << 16);
}
NIBBLE_INLINE void store(bf16* p, f32x v) {
  const u16x half = __builtin_convertvector(bf16_bits(v), u16x);
  std::memcpy(static_cast<void*>(p), &half, sizeof half);
}

/// The first `count` < 16 elements; the other lanes are `fill`.
template <class T>
NIBBLE_INLINE f32x load_part(const T* p, int64_t count, float fill = 0.0f) {
  T block[lanes];
  for (T& element : block) element = T(fill);
  std::memcpy(static_cast<void*>(block), p, static_cast<size_t>(count) * sizeof(T));
  return load(block);
}
template <class T>
NIBBLE_INLINE void store_part(T* p, f32x v, int64_t count) {
  T block[lanes];
  store(block, v);
  std::memcpy(static_cast<void*>(p), block, static_cast<size_t>(count) * sizeof(T));
}

/// Calls body(offset, count) for each group of 16 elements; count < 16 only in the last.
/// Pair it with `load_n` / `store_n`, which are plain accesses when the group is full.
template <class Body>
NIBBLE_INLINE void for_each_group(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, lanes);
  if (i < n) body(i, n - i);
}
template <class T>
NIBBLE_INLINE f32x load_n(const T* p, int64_t count, float fill = 0.0f) {
  return count == lanes ? load(p) : load_part(p, count, fill);
}
template <class T>
NIBBLE_INLINE void store_n(T* p, f32x v, int64_t count) {
  if (count == lanes) store(p, v);
  else store_part(p, v, count);
}

/// Bit i: whether lane i is negative.
NIBBLE_INLINE uint32_t negative_lanes(i32x v) {
#if defined(__x86_64__)
  __m256 half[2];
  std::memcpy(half, &v, sizeof v);
  return static_cast<uint32_t>(_mm256_movemask_ps(half[0]) | _mm256_movemask_ps(half[1]) << 8);
#else
  uint32_t bits = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) bits |= uint32_t{v[lane] < 0} << lane;
  return bits;
#endif
}

NIBBLE_INLINE f32x max(f32x a, f32x b) { return a > b ? a : b; }

/// Lanes 0+8, 1+9, ... then 0+4, ..., 0+2, 0+1: a fixed binary tree.
NIBBLE_INLINE float sum(f32x v) {
  float a[lanes];
  store(a, v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) a[i] += a[i + width];
  return a[0];
}
NIBBLE_INLINE float max(f32x v) {
  float a[lanes];
  store(a, v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) a[i] = a[i] > a[i + width] ? a[i] : a[i + width];
  return a[0];
}
NIBBLE_INLINE f64x widen(f32x v) { return __builtin_convertvector(v, f64x); }
NIBBLE_INLINE double sum(f64x v) {
  double a[lanes];
  std::memcpy(a, &v, sizeof v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) a[i] += a[i + width];
  return a[0];
}

/// a b + c, rounded once: the same instruction on AVX2 and AVX-512, unlike what a contraction would make of a * b + c.
/// The vector extension has no operator for it; the compiler makes one instruction of the loop.
NIBBLE_INLINE f32x fma(f32x a, f32x b, f32x c) {
  f32x result;
  for (int lane = 0; lane < lanes; ++lane) result[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return result;
}

/// exponential.hpp's floats.
struct Lanes {
  NIBBLE_INLINE static f32x splat(float value) { return simd::splat(value); }
  NIBBLE_INLINE static f32x fma(f32x a, f32x b, f32x c) { return simd::fma(a, b, c); }
  NIBBLE_INLINE static u32x bits(f32x x) { return as<u32x>(x); }
  NIBBLE_INLINE static f32x floats(u32x bits) { return as<f32x>(bits); }
};
/// Of each lane: see exponential.
NIBBLE_INLINE f32x exp(f32x x) { return exponential<Lanes>(x); }

/// 1 / (1 + e^-x)
NIBBLE_INLINE f32x sigmoid(f32x x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace nibble::simd

#undef NIBBLE_INLINE
