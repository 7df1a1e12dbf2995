#include "tensor/tile_kernel.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#include "tensor/simd.hpp"

#pragma GCC target("arch=x86-64-v4,avx512vnni,prefer-vector-width=512")  // clang: CMakeLists.txt
#include "tensor/cpu/transpose.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::i32x, simd::lanes, simd::u32x;

// VPDPBUSD adds to each 32-bit lane the products of four unsigned bytes with four signed ones, without saturation. A is
// unsigned: its elements go into the panels plus 128, and 128 times the sums of B's columns are taken off again. All
// sums are exact modulo 2^32, so what overflows on the way does no harm. The tile is fma_tile_kernel.cpp's, whose
// counts of loads and accumulators hold for this instruction, too.
constexpr int64_t tile_rows = 16, half_rows = 8, tile_cols = 32;
constexpr int64_t group = 4;  // elements along the depth in a lane
constexpr int64_t line = lanes * group;

enum class Operand { a, b };

__m512i load_bytes(const int8_t* p, int64_t count) {
  return _mm512_maskz_loadu_epi8(count >= line ? ~0ull : (1ull << std::max<int64_t>(count, 0)) - 1, p);
}
__m128i load_quarter(const int8_t* p, int64_t count) {
  return _mm_maskz_loadu_epi8(static_cast<__mmask16>(count >= lanes ? 0xffff : (1 << count) - 1), p);
}

/// The sums of the panel's rows (or columns) so far, with one line more; the line goes into the panel.
template <Operand operand>
__m512i put_line(__m512i sums, __m512i bytes, int8_t* into) {
  _mm512_storeu_si512(into, operand == Operand::a ? _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)) : bytes);
  return _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), bytes);
}

/// x[depth, count] into panels of `width`: four rows of x at a time, turned in squares of 4 x 4 bytes.
template <Operand operand, int64_t width>
void pack_depth_major(const Tensor& x, int64_t padded_depth, int8_t* panels) {
  const __m512i bytes_of_rows = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
  const auto panel_line = [&](int64_t i) { return panels + i / width * width * padded_depth + i % width * group; };
  for (int64_t i = 0; i < x.cols; i += lanes) _mm512_storeu_si512(panel_line(i), _mm512_setzero_si512());
  for (int64_t k = 0; k < x.rows; k += group) {
    const int8_t* rows[group];
    for (int64_t r = 0; r < group; ++r) rows[r] = k + r < x.rows ? x.row<int8_t>(k + r) : nullptr;
    for (int64_t i = 0; i < x.cols; i += lanes) {
      const int64_t count = x.cols - i;
      const auto quarter = [&](int64_t r) { return rows[r] ? load_quarter(rows[r] + i, count) : _mm_setzero_si128(); };
      __m512i bytes = _mm512_castsi128_si512(quarter(0));
      bytes = _mm512_inserti32x4(bytes, quarter(1), 1);
      bytes = _mm512_inserti32x4(bytes, quarter(2), 2);
      bytes = _mm512_inserti32x4(bytes, quarter(3), 3);
      const i32x squares =
          __builtin_shufflevector(simd::as<i32x>(bytes), i32x{}, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      bytes = _mm512_shuffle_epi8(simd::as<__m512i>(squares), bytes_of_rows);
      int8_t* sums = panel_line(i);
      _mm512_storeu_si512(sums, put_line<operand>(_mm512_loadu_si512(sums), bytes, sums + (k + group) * width));
    }
  }
}

/// x[count, depth] into panels of `width`: transposed in squares of 16 x 16 groups.
template <Operand operand, int64_t width>
void pack_depth_minor(const Tensor& x, int64_t padded_depth, int8_t* panels) {
  for (int64_t i = 0; i < x.rows; i += lanes) {
    const int64_t rows = std::min(lanes, x.rows - i);
    int8_t* into = panels + i / width * width * padded_depth + i % width * group;
    __m512i sums = _mm512_setzero_si512();
    for (int64_t k = 0; k < x.cols; k += line) {
      const int64_t depth = x.cols - k;
      f32x square[lanes];
#pragma GCC unroll 16
      for (int64_t r = 0; r < lanes; ++r)
        square[r] = simd::as<f32x>(r < rows ? load_bytes(x.row<int8_t>(i + r) + k, depth) : _mm512_setzero_si512());
      simd::transpose(square);
      for (int64_t j = 0; j < lanes && group * j < depth; ++j)
        sums = put_line<operand>(sums, simd::as<__m512i>(square[j]), into + (k + group * (j + 1)) * width);
    }
    _mm512_storeu_si512(into, sums);
  }
}

int64_t padded(int64_t depth) { return (depth + group - 1) / group * group + group; }

template <Operand operand, int64_t width>
[[gnu::flatten]] void pack_panels(const Tensor& x, bool depth_major, void* panels) {
  auto* into = static_cast<int8_t*>(panels);
  if (depth_major) pack_depth_major<operand, width>(x, padded(x.rows), into);
  else pack_depth_minor<operand, width>(x, padded(x.cols), into);
}

// Every loop over the sums is unrolled by name: if one is left to the optimizer, GCC 12 keeps them in memory as well,
// and a store for each instruction halves the speed.
[[gnu::flatten]] void multiply_half(int64_t groups, const int8_t* a, const int8_t* b, const int32_t* start,
                                    int64_t start_stride, int32_t* target, int64_t target_stride) {
  __m512i sums[half_rows][2];
#pragma GCC unroll 2
  for (int64_t v = 0; v < 2; ++v) {
    const auto shift = simd::as<__m512i>(simd::as<u32x>(_mm512_loadu_si512(b + v * line)) * 128);
#pragma GCC unroll 8
    for (int64_t r = 0; r < half_rows; ++r) {
      const __m512i before = start ? _mm512_loadu_si512(start + r * start_stride + v * lanes) : _mm512_setzero_si512();
      sums[r][v] = _mm512_sub_epi32(before, shift);
    }
  }
  for (int64_t k = 1; k < groups; ++k) {
    a += tile_rows * group;
    b += tile_cols * group;
    const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + line);
#pragma GCC unroll 8
    for (int64_t r = 0; r < half_rows; ++r) {
      int32_t four;
      std::memcpy(&four, a + r * group, sizeof four);
      const __m512i x = _mm512_set1_epi32(four);
      sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], x, b0);
      sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], x, b1);
    }
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < half_rows; ++r)
#pragma GCC unroll 2
    for (int64_t v = 0; v < 2; ++v) _mm512_storeu_si512(target + r * target_stride + v * lanes, sums[r][v]);
}

void multiply(int64_t depth, const void* a, const void* b, const void* start, int64_t start_stride,
              const TileTarget& target) {
  const auto* from = static_cast<const int32_t*>(start);
  for (int64_t row = 0; row < tile_rows; row += half_rows)
    multiply_half(depth / group, static_cast<const int8_t*>(a) + row * group, static_cast<const int8_t*>(b),
                  from ? from + row * start_stride : nullptr, start_stride,
                  static_cast<int32_t*>(target.data) + row * target.stride, target.stride);
}

}  // namespace

const TileKernel* vnni_tile_kernel() {
  // 128 x 2048 of A and 2048 x 512 of B take 1.3 MB of a 2 MB L2 cache. A panel of B (64 KB) comes from there, which
  // the kernel hardly feels; blocks half as deep stay in L1, but sums that go through memory once more cost 5 to 10 %.
  static constexpr TileKernel kernel{.name = "packed VNNI 16x32",
                                     .panel_type = DType::i8,
                                     .sum_type = DType::i32,
                                     .rows = tile_rows,
                                     .cols = tile_cols,
                                     .depth_step = group,
                                     .depth_lead = group,
                                     .row_block = 128,
                                     .col_block = 512,
                                     .depth_block = 2048,
                                     .region_rows = 2048,
                                     .pack_rows = pack_panels<Operand::a, tile_rows>,
                                     .pack_cols = pack_panels<Operand::b, tile_cols>,
                                     .multiply = multiply};
  return __builtin_cpu_supports("avx512vnni") ? &kernel : nullptr;
}

}  // namespace nibble

#else

namespace nibble {
const TileKernel* vnni_tile_kernel() { return nullptr; }
}  // namespace nibble

#endif
