// Hadamard transforms of a tile along its reduction axis (hadamard.hpp). Part of the tile kernels.
#pragma once

#include "quant/cpu/move_tile.hpp"

namespace nibble {
namespace {

/// Two butterfly stages, of strides h and 2h, over `n` rows from `x` on.
void two_butterfly_stages(float* x, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; i += 4 * h)
    for (int64_t j = i; j < i + h; ++j) {
      float* row[4] = {x + j * lanes, x + (j + h) * lanes, x + (j + 2 * h) * lanes, x + (j + 3 * h) * lanes};
      const f32x a = simd::load(row[0]), b = simd::load(row[1]), c = simd::load(row[2]), d = simd::load(row[3]);
      const f32x sum0 = a + b, difference0 = a - b, sum1 = c + d, difference1 = c - d;
      simd::store(row[0], sum0 + sum1);
      simd::store(row[1], difference0 + difference1);
      simd::store(row[2], sum0 - sum1);
      simd::store(row[3], difference0 - difference1);
    }
}

/// Sylvester's transform of `n` rows, a power of two, by ascending stride; not normalized.
void butterflies(float* x, int64_t n) {
  int64_t h = 1;
  for (; 4 * h <= n; h *= 4) two_butterfly_stages(x, n, h);
  if (h == n) return;
  for (int64_t j = 0; j < h; ++j) {
    const f32x a = simd::load(x + j * lanes), b = simd::load(x + (j + h) * lanes);
    simd::store(x + j * lanes, a + b);
    simd::store(x + (j + h) * lanes, a - b);
  }
}

/// The core's matrix, or its transpose, across the doubled parts of a block. `copy` holds core rows.
void multiply_core(float* x, const Hadamard& hadamard, bool transposed, float* copy) {
  const int64_t m = hadamard.core, stride = hadamard.doublings;
  for (int64_t j = 0; j < stride; ++j) {
    for (int64_t k = 0; k < m; ++k) simd::store(copy + k * lanes, simd::load(x + (k * stride + j) * lanes));
    for (int64_t i = 0; i < m; ++i) {
      f32x sum{};
      for (int64_t k = 0; k < m; ++k)
        sum += simd::load(copy + k * lanes) * hadamard.entries[static_cast<size_t>(transposed ? i * m + k : k * m + i)];
      simd::store(x + (i * stride + j) * lanes, sum);
    }
  }
}

void scale_rows(float* x, int64_t n, float factor, std::span<const float> signs) {
  for (int64_t d = 0; d < n; ++d)
    simd::store(x + d * lanes,
                simd::load(x + d * lanes) * (signs.empty() ? factor : factor * signs[static_cast<size_t>(d)]));
}

/// Each block of the tile becomes x D H, or with `transposed` x H^T D.
void rotate_tile(const Tile& tile, const Hadamard& hadamard, std::span<const float> signs, bool transposed,
                 float* copy) {
  for (int64_t first = 0; first < tile.depth; first += hadamard.order) {
    float* block = tile.row(first);
    if (!transposed && !signs.empty()) scale_rows(block, hadamard.order, 1, signs);
    for (int64_t part = 0; part < hadamard.core; ++part)
      butterflies(block + part * hadamard.doublings * lanes, hadamard.doublings);
    if (hadamard.core > 1) multiply_core(block, hadamard, transposed, copy);
    scale_rows(block, hadamard.order, hadamard.normalization, transposed ? signs : std::span<const float>());
  }
}

}  // namespace
}  // namespace nibble
