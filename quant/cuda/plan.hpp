// How a quantizer's work is cut for a device: which pieces of a matrix lie in a block's memory, and what lies beside
// them.
#pragma once

#include <optional>

#include "quant/cuda/thread_lanes.hpp"

namespace nibble::cuda {

/// The eights whose sums a thread adds before a row's are joined: a whole level of their tree (PairwiseSum).
inline constexpr int segment_level = 4, segment = 8 << segment_level;

struct TilePlan {
  TileShape shape;
  unsigned threads;
  int span;  ///< of the reduction axis: what a thread quantizes at once
  /// Floats behind the tile: copies of each thread's block, and whatever else one step needs; then two for each outer
  /// index (a row's scale and its inverse); then the bytes of parts.
  int spare, row_scales;
  size_t bytes;

  /// One at least, which writes what a matrix without elements has, too.
  int blocks() const;
};

/// Of what a tile must have all: blocks and rotations, or rows besides (`whole_rows`, along the reduction axis).
enum class TilesOf { whole_blocks, whole_rows };

/// With the places of parts in the block's memory filled in. Nothing where what a tile must have all does not fit: then
/// rotations go through the device's memory first, and rows are made before.
std::optional<TilePlan> plan_tiles(const Tensor& x, const Quantization& how, bool counts, TileParts& parts,
                                   TilesOf tiles = TilesOf::whole_blocks);

}  // namespace nibble::cuda
