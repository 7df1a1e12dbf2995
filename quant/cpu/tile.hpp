// A strip of a matrix with its reduction axis running through memory and sixteen outer indices side by side.
//
// Blocks, rotations and their statistics then run from register to register, whichever way the matrix lies; only
// matrices whose reduction axis is contiguous are turned, in squares of sixteen, when a tile is loaded and stored.
#pragma once

#include <algorithm>

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
  int64_t size() const { return strips * chunks; }
  Tile tile(int64_t index, float* memory) const {
    const int64_t strip = axis == Axis::cols ? index / chunks : index % strips;
    const int64_t part = axis == Axis::cols ? index % chunks : index / strips;
    return {memory, strip * tile_width, std::min(tile_width, outer - strip * tile_width), part * chunk,
            std::min(chunk, depth - part * chunk)};
  }
  /// Floats of a tile: whole squares, whose words hold up to four elements.
  int64_t floats() const {
    constexpr int64_t square = 4 * tile_width;
    return (chunk + square - 1) / square * square * tile_width;
  }
};

}  // namespace nibble
