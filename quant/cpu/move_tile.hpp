// Between matrices and tiles (tile.hpp). Part of the tile kernels: included by tile_kernels_*.cpp alone.
#pragma once

#include "quant/cpu/tile.hpp"
#include "tensor/cpu/transpose.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::lanes;
static_assert(lanes == tile_width);

template <class T>
void load_tile(const Operand& x, Axis axis, const Tile& tile) {
  const float* row_scale = x.row_scale ? x.row_scale.as<float>() : nullptr;
  const float* col_scale = x.col_scale ? x.col_scale.as<float>() : nullptr;
  if (axis == Axis::rows) {
    for (int64_t d = 0; d < tile.depth; ++d) {
      const int64_t i = tile.first + d;
      f32x v = simd::load_n(x.values.row<T>(i) + tile.outer, tile.width) * x.factor;
      if (row_scale) v *= row_scale[i];
      if (col_scale) v *= simd::load_n(col_scale + tile.outer, tile.width);
      simd::store(tile.row(d), v);
    }
    return;
  }
  for (int64_t d = 0; d < tile.depth; d += lanes) {
    const int64_t count = std::min(lanes, tile.depth - d);
    f32x square[lanes];
    for (int64_t r = 0; r < lanes; ++r) {
      square[r] = f32x{};
      if (r >= tile.width) continue;
      const int64_t i = tile.outer + r;
      square[r] = simd::load_n(x.values.row<T>(i) + tile.first + d, count) * x.factor;
      if (row_scale) square[r] *= row_scale[i];
      if (col_scale) square[r] *= simd::load_n(col_scale + tile.first + d, count);
    }
    simd::transpose(square);
#pragma GCC unroll 16
    for (int64_t r = 0; r < lanes; ++r) simd::store(tile.row(d + r), square[r]);
  }
}

void load_tile(const Operand& x, Axis axis, const Tile& tile) {
  if (x.values.dtype == DType::bf16) load_tile<bf16>(x, axis, tile);
  else load_tile<float>(x, axis, tile);
}

/// `keep(values, to, count)` stores sixteen neighbours in memory, `count` of them valid.
template <class T, class Keep>
void store_tile(const Tile& tile, Axis axis, const Tensor& y, Keep&& keep) {
  if (axis == Axis::rows) {
    for (int64_t d = 0; d < tile.depth; ++d)
      keep(simd::load(tile.row(d)), y.row<T>(tile.first + d) + tile.outer, tile.width);
    return;
  }
  for (int64_t d = 0; d < tile.depth; d += lanes) {
    f32x square[lanes];
#pragma GCC unroll 16
    for (int64_t r = 0; r < lanes; ++r) square[r] = simd::load(tile.row(d + r));
    simd::transpose(square);
    for (int64_t r = 0; r < tile.width; ++r)
      keep(square[r], y.row<T>(tile.outer + r) + tile.first + d, std::min(lanes, tile.depth - d));
  }
}

/// To f32 or bf16 (rounded to nearest even).
void store_tile(const Tile& tile, Axis axis, const Tensor& y) {
  const auto keep = [](f32x v, auto* to, int64_t count) { simd::store_n(to, v, count); };
  if (y.dtype == DType::bf16) store_tile<bf16>(tile, axis, y, keep);
  else store_tile<float>(tile, axis, y, keep);
}

}  // namespace
}  // namespace nibble
