// A strip of a matrix with its reduction axis running through memory and sixteen outer indices side by side.
//
// Blocks, rotations and their statistics then run from register to register, whichever way the matrix lies; only
// matrices whose reduction axis is contiguous are turned, in squares of sixteen, when a tile is loaded and stored.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "quant/quantize.hpp"

namespace nibble {

/// Outer indices of a tile: the floats of one vector (tensor/simd.hpp).
inline constexpr int64_t tile_width = 16;

/// Elements [outer, outer + width) x [first, first + depth): rows of sixteen floats, one for each index of the
/// reduction axis.
struct Tile {
  float* x;
  int64_t outer, width;  ///< width <= 16; the others are zero
  int64_t first, depth;

  float* row(int64_t d) const { return x + d * tile_width; }
};

/// Of the reduction axis: whole blocks, rotations and corrections; the whole axis where one scale spans it.
inline int64_t chunk_length(const Quantization& how) {
  constexpr int64_t usual = 128;
  const Quantizer& q = how.quantizer;
  if (q.quantizes() && q.extent == Extent::row) return std::numeric_limits<int64_t>::max();
  // Whole eights, too: parts have bytes of them, and random numbers go by them.
  int64_t whole = std::lcm(int64_t{8}, how.hadamard ? how.hadamard->order : 1);
  if (q.quantizes() && q.blocks()) whole = std::lcm(whole, std::max<int64_t>(q.group, q.correction_group));
  return (std::max(usual, whole) + whole - 1) / whole * whole;
}

/// How a matrix is cut into tiles: tiles that lie beside each other in memory follow each other.
struct Tiling {
  Axis axis;
  int64_t outer, depth, chunk, strips, chunks;

  Tiling(const Tensor& x, Axis reduction, int64_t chunk_length)
      : axis(reduction),
        outer(reduction == Axis::cols ? x.rows : x.cols),
        depth(reduction == Axis::cols ? x.cols : x.rows),
        chunk(std::min(chunk_length, depth)),
        strips((outer + tile_width - 1) / tile_width),
        chunks(chunk == 0 ? 0 : (depth + chunk - 1) / chunk) {}
  constexpr int64_t size() const { return strips * chunks; }
  constexpr Tile tile(int64_t index, float* memory) const {
    const int64_t strip = axis == Axis::cols ? index / chunks : index % strips;
    const int64_t part = axis == Axis::cols ? index % chunks : index / strips;
    return {memory, strip * tile_width, std::min(int64_t{tile_width}, outer - strip * tile_width), part * chunk,
            std::min(chunk, depth - part * chunk)};
  }
  /// Floats of a tile: whole squares, whose words hold up to four elements.
  int64_t floats() const {
    constexpr int64_t square = 4 * tile_width;
    return (chunk + square - 1) / square * square * tile_width;
  }
};

}  // namespace nibble
