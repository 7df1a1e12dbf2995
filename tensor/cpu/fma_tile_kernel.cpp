#include "tensor/tile_kernel.hpp"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#include "tensor/simd.hpp"

#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")  // clang: CMakeLists.txt
#include "tensor/cpu/transpose.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::lanes, simd::load_n, simd::splat;

// A tile is two halves of 8 x 32: 16 accumulators each, enough for two multiply-adds a cycle of four cycles' latency,
// and 10 loads for 16 multiply-adds, below the two loads a cycle of the load ports. A panel of B (256 x 32 x 4 B = 32
// KB) stays in L1.
constexpr int64_t tile_rows = 16, half_rows = 8, tile_cols = 32;

/// x[depth, count] into panels of `width`: copies, row after row of x.
template <class T, int64_t width>
void pack_depth_major(const Tensor& x, float* panels) {
  for (int64_t k = 0; k < x.rows; ++k) {
    const T* row = x.row<T>(k);
    for (int64_t i = 0; i < x.cols; i += lanes) {
      const int64_t panel = i / width;
      simd::store(panels + (panel * x.rows + k) * width + i % width, load_n(row + i, std::min(lanes, x.cols - i)));
    }
  }
}

/// x[count, depth] into panels of `width`: transposed in squares of 16.
template <class T, int64_t width>
void pack_depth_minor(const Tensor& x, float* panels) {
  for (int64_t i = 0; i < x.rows; i += lanes) {
    const int64_t rows = std::min(lanes, x.rows - i);
    float* into = panels + i / width * width * x.cols + i % width;
    for (int64_t k = 0; k < x.cols; k += lanes) {
      const int64_t depth = std::min(lanes, x.cols - k);
      f32x square[lanes];
#pragma GCC unroll 16
      for (int64_t r = 0; r < lanes; ++r) square[r] = r < rows ? load_n(x.row<T>(i + r) + k, depth) : splat(0);
      simd::transpose(square);
      for (int64_t j = 0; j < depth; ++j) simd::store(into + (k + j) * width, square[j]);
    }
  }
}

template <class T, int64_t width>
inline void pack(const Tensor& x, bool depth_major, float* panels) {
  if (depth_major) pack_depth_major<T, width>(x, panels);
  else pack_depth_minor<T, width>(x, panels);
}

template <int64_t width>
[[gnu::flatten]] void pack_panels(const Tensor& x, bool depth_major, void* panels) {
  if (x.dtype == DType::bf16) pack<bf16, width>(x, depth_major, static_cast<float*>(panels));
  else pack<float, width>(x, depth_major, static_cast<float*>(panels));
}

template <class T>
[[gnu::flatten]] void multiply_half(int64_t depth, const float* a, const float* b, const float* start,
                                    int64_t start_stride, T* target, int64_t target_stride) {
  f32x sums[half_rows][2];
  for (int64_t r = 0; r < half_rows; ++r)
    for (int64_t v = 0; v < 2; ++v) sums[r][v] = start ? simd::load(start + r * start_stride + v * lanes) : splat(0);
  for (int64_t k = 0; k < depth; ++k, a += tile_rows, b += tile_cols) {
    const f32x b0 = simd::load(b), b1 = simd::load(b + lanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < half_rows; ++r) {
      const f32x x = _mm512_set1_ps(a[r]);
      sums[r][0] = _mm512_fmadd_ps(x, b0, sums[r][0]);
      sums[r][1] = _mm512_fmadd_ps(x, b1, sums[r][1]);
    }
  }
  for (int64_t r = 0; r < half_rows; ++r)
    for (int64_t v = 0; v < 2; ++v) simd::store(target + r * target_stride + v * lanes, sums[r][v]);
}

template <class T>
void multiply_into(int64_t depth, const float* a, const float* b, const float* start, int64_t start_stride, T* target,
                   int64_t target_stride) {
  for (int64_t row = 0; row < tile_rows; row += half_rows)
    multiply_half(depth, a + row, b, start ? start + row * start_stride : nullptr, start_stride,
                  target + row * target_stride, target_stride);
}

void multiply(int64_t depth, const void* a, const void* b, const void* start, int64_t start_stride,
              const TileTarget& target) {
  const auto* panel_a = static_cast<const float*>(a);
  const auto* panel_b = static_cast<const float*>(b);
  const auto* from = static_cast<const float*>(start);
  if (target.dtype == DType::f32)
    multiply_into(depth, panel_a, panel_b, from, start_stride, static_cast<float*>(target.data), target.stride);
  else multiply_into(depth, panel_a, panel_b, from, start_stride, static_cast<bf16*>(target.data), target.stride);
}

}  // namespace

const TileKernel* fma_tile_kernel() {
  // With 384 x 256 of A and 256 x 512 of B as floats, 0.9 MB of a 2 MB L2 cache are taken; the sums pass through.
  static constexpr TileKernel kernel{.name = "packed FMA 16x32",
                                     .panel_type = DType::f32,
                                     .rows = tile_rows,
                                     .cols = tile_cols,
                                     .depth_step = 1,
                                     .row_block = 384,
                                     .col_block = 512,
                                     .depth_block = 256,
                                     .region_rows = 1536,
                                     .pack_rows = pack_panels<tile_rows>,
                                     .pack_cols = pack_panels<tile_cols>,
                                     .multiply = multiply};
  return &kernel;
}

}  // namespace nibble

#else

namespace nibble {
const TileKernel* fma_tile_kernel() { return nullptr; }
}  // namespace nibble

#endif
