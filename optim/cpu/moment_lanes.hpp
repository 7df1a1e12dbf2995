// A register full of moments, for optim/moment_codes.hpp.
//
// For moment_pack_body.hpp alone, which is compiled once for each instruction set: the registers' width is another one.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <array>
#include <cstdint>

namespace nibble {
namespace {

#if defined(NIBBLE_MOMENTS_FOR_AVX512)
constexpr int64_t lanes = 16;
#else
constexpr int64_t lanes = 8;
#endif

using floats = float __attribute__((vector_size(lanes * 4)));
using integers = int32_t __attribute__((vector_size(lanes * 4)));

struct Register {
  using floats = nibble::floats;
  using integers = nibble::integers;

  static floats absolute(floats v) { return (floats)((integers)v & 0x7fffffff); }
  static integers bits(floats v) { return (integers)v; }
  static floats with_bits(integers v) { return (floats)v; }
  static integers whole(floats v) { return __builtin_convertvector(v, integers); }
  static floats number(integers v) { return __builtin_convertvector(v, floats); }
  static integers one_where(integers condition) { return -condition; }

  template <const std::array<float, 8>& table>
  static floats pick(integers index) {
#if defined(NIBBLE_MOMENTS_FOR_AVX512)
    return (floats)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index,
                                               _mm512_maskz_broadcast_f32x8(0xffff, _mm256_loadu_ps(table.data())));
#elif defined(__x86_64__)
    return (floats)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table.data()), (__m256i)index);
#else
    floats picked;
    for (int64_t lane = 0; lane < lanes; ++lane) picked[lane] = table[static_cast<size_t>(index[lane])];
    return picked;
#endif
  }
};

}  // namespace
}  // namespace nibble
