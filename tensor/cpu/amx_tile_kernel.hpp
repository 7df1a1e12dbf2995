// bf16 products on AMX's tile registers: 32 x 32 tiles of C, products exact, sums in fp32.
//
// The kernel is written over the few tile operations that it needs. AmxTiles are the machine's; the tests bring others,
// which compute the same on any processor. Instructions: Intel 64 and IA-32 Architectures Software Developer's Manual,
// volume 1, chapter 18 (TDPBF16PS adds the products of a pair in order and treats denormals as zero).
#pragma once

#include <algorithm>
#include <cassert>

#include "tensor/simd.hpp"
#include "tensor/tile_kernel.hpp"

namespace nibble {

/// Packs panels of 32 rows of A, or columns of B: squares of 16 rows x 32 bf16, two a step of 32 along the depth. In
/// A's a line is a row of A; in B's a line holds a pair of elements along the depth for each of 16 columns.
void pack_amx_rows(const Tensor& x, bool depth_major, void* panels);
void pack_amx_cols(const Tensor& x, bool depth_major, void* panels);

/// C in tiles 0 to 3, two tiles of A in 4 and 5, two of B in 6 and 7.
template <class Tiles>
void multiply_on_tiles(int64_t depth, const void* a, const void* b, const void* start, int64_t start_stride,
                       const TileTarget& target) {
  constexpr int64_t square = 16 * 32, line = 64;  // elements, bytes
  const auto* panel_a = static_cast<const bf16*>(a);
  const auto* panel_b = static_cast<const bf16*>(b);
  if (start) {
    const auto* from = static_cast<const float*>(start);
    const int64_t stride = start_stride * 4;
    Tiles::template load<0>(from, stride);
    Tiles::template load<1>(from + 16, stride);
    Tiles::template load<2>(from + 16 * start_stride, stride);
    Tiles::template load<3>(from + 16 * start_stride + 16, stride);
  } else {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
  }
  for (int64_t k = 0; k < depth; k += 32, panel_a += 2 * square, panel_b += 2 * square) {
    Tiles::template load<6>(panel_b, line);
    Tiles::template load<4>(panel_a, line);
    Tiles::template dot<0, 4, 6>();
    Tiles::template load<7>(panel_b + square, line);
    Tiles::template dot<1, 4, 7>();
    Tiles::template load<5>(panel_a + square, line);
    Tiles::template dot<2, 5, 6>();
    Tiles::template dot<3, 5, 7>();
  }
  alignas(alignment) float rounded[32 * 32];
  const bool direct = target.dtype == DType::f32;
  float* into = direct ? static_cast<float*>(target.data) : rounded;
  const int64_t stride = direct ? target.stride : 32;
  Tiles::template store<0>(into, stride * 4);
  Tiles::template store<1>(into + 16, stride * 4);
  Tiles::template store<2>(into + 16 * stride, stride * 4);
  Tiles::template store<3>(into + 16 * stride + 16, stride * 4);
  if (direct) return;
  for (int64_t i = 0; i < 32; ++i)
    for (int64_t j = 0; j < 32; j += simd::lanes)
      simd::store(static_cast<bf16*>(target.data) + i * target.stride + j, simd::load(rounded + i * 32 + j));
}

template <class Tiles>
constexpr TileKernel amx_tile_kernel_on(const char* name) {
  // 128 x 1024 of A and 1024 x 512 of B as bf16 take 1.3 MB of a 2 MB L2 cache. Packing costs about a tenth of a
  // nanosecond an element and a product a thousandth, so a packed block of B serves 2048 rows.
  return {.name = name,
          .panel_type = DType::bf16,
          .rows = 32,
          .cols = 32,
          .depth_step = 32,
          .row_block = 128,
          .col_block = 512,
          .depth_block = 1024,
          .region_rows = 2048,
          .pack_rows = pack_amx_rows,
          .pack_cols = pack_amx_cols,
          .multiply = multiply_on_tiles<Tiles>,
          .enter = Tiles::enter,
          .leave = Tiles::leave};
}

}  // namespace nibble
