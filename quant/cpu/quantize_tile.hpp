// Quantization of one tile: the blocks of sixteen outer indices at once, each with scales and random numbers of its
// own. Part of the tile kernels.
#pragma once

#include <bit>

#include "quant/block_quantizer.hpp"
#include "quant/cpu/move_tile.hpp"
#include "quant/cpu/random_lanes.hpp"
#include "quant/cpu/tile_kernels.hpp"

namespace nibble {
namespace {

/// Rows of a tile, sixteen floats each.
struct VectorRows {
  using Real = f32x;
  using Index = int64_t;

  float* x;

  [[gnu::always_inline]] f32x load(int64_t d) const { return simd::load(x + d * lanes); }
  [[gnu::always_inline]] void store(int64_t d, f32x v) const { simd::store(x + d * lanes, v); }
  [[gnu::always_inline]] VectorRows from(int64_t d) const { return {x + d * lanes}; }
};

/// The lanes of a tile, for BlockQuantizer.
class VectorLanes {
 public:
  using Rows = VectorRows;

  VectorLanes(const Tile& tile, const QuantizedParts& parts, QuantizationCounts* counts)
      : tile_(tile), parts_(parts), counts_(counts) {}

  [[gnu::always_inline]] simd::RandomLanes randoms(const RandomStream& stream, uint32_t part, int64_t block,
                                                   int64_t blocks) const {
    return {stream, part, static_cast<uint32_t>(tile_.outer * blocks + block), static_cast<uint32_t>(blocks)};
  }

  f32x largest_of_square(f32x x) const {
    float v[lanes];
    simd::store(v, x);
    for (int lane = 1; lane < lanes; ++lane) v[0] = larger_magnitude(v[0], v[lane]);
    return simd::splat(v[0]);
  }
  [[gnu::always_inline]] f32x sum_of_square(f32x x) const { return simd::splat(simd::sum(x)); }

  bool element_parts() const { return static_cast<bool>(parts_.codes); }
  bool scale_parts() const { return static_cast<bool>(parts_.scales); }
  bool mask_parts() const { return static_cast<bool>(parts_.mask); }
  bool counts() const { return counts_ != nullptr; }

  [[gnu::always_inline]] void write_scale(int64_t block, u32x code) const {
    for (int64_t lane = 0; lane < tile_.width; ++lane)
      parts_.scales.row<uint8_t>(tile_.outer + lane)[block] = static_cast<uint8_t>(code[lane]);
  }
  [[gnu::always_inline]] void write_mask(int64_t eight, u32x passing) const {
    uint32_t bytes[lanes];
    std::memcpy(bytes, &passing, sizeof bytes);
    for (int64_t lane = 0; lane < tile_.width; ++lane)
      parts_.mask.row<uint8_t>(tile_.outer + lane)[eight] = static_cast<uint8_t>(bytes[lane]);
  }
  [[gnu::always_inline]] void write_codes(int64_t eight, int bits, u32x low, u32x high) const {
    uint32_t words[2][lanes];
    std::memcpy(words[0], &low, sizeof low);
    std::memcpy(words[1], &high, sizeof high);
    auto* to = parts_.codes.row<uint8_t>(tile_.outer) + eight * bits;
    for (int64_t lane = 0; lane < tile_.width; ++lane, to += parts_.codes.stride) {
      const uint64_t codes = uint64_t{words[1][lane]} << 32 | words[0][lane];
      if (bits == 4) std::memcpy(to, words[0] + lane, 4);  // a length that the compiler knows is no call
      else if (bits == 8) std::memcpy(to, &codes, 8);
      else std::memcpy(to, &codes, static_cast<size_t>(bits));
    }
  }
  [[gnu::always_inline]] void count(int elements, u32x passing, u32x clipped) const {
    for (int64_t lane = 0; lane < tile_.width; ++lane) {
      counts_->elements += elements;
      counts_->clipped += clipped[lane];
      counts_->masked += elements - std::popcount(uint32_t{passing[lane]} & ((1u << elements) - 1));
    }
  }

 private:
  const Tile& tile_;
  const QuantizedParts& parts_;
  QuantizationCounts* counts_;
};

class TileQuantizer {
 public:
  TileQuantizer(const TileSource& from, float tensor_scale, const QuantizeTarget& to, QuantizationCounts* counts,
                float* spare)
      : how_(from.how),
        q_(from.how.quantizer),
        to_(to),
        counts_(counts),
        depth_(from.tiling.depth),
        tensor_scale_(tensor_scale),
        spare_{spare} {}

  /// The tile's values become q s, or q where the scale is the tensor's or the row's.
  void quantize(const Tile& tile) const {
    if (q_.rounding == Rounding::stochastic) quantize_by<RoundingKernel::stochastic>(tile);
    else if (q_.element->half_odd()) quantize_by<RoundingKernel::half_odd>(tile);
    else quantize_by<RoundingKernel::nearest>(tile);
  }

 private:
  template <RoundingKernel kernel>
  [[gnu::noinline]] void quantize_by(const Tile& tile) const {
    const VectorLanes of_tile(tile, to_.parts, counts_);
    const BlockQuantizer<VectorLanes> blocks(of_tile, q_, *q_.element, how_.rounding, how_.scale_rounding, how_.part,
                                             tensor_scale_, depth_, tile.first, spare_);
    const int64_t span = q_.blocks() ? std::max<int64_t>(q_.group, q_.correction_group) : tile.depth;
    const VectorRows rows{tile.x};
    BlockScale<f32x> known = blocks.tensor_scale();
    if (q_.extent == Extent::row) {
      known = blocks.own_scale({rows, 0, tile.depth});
      for (int64_t lane = 0; lane < tile.width; ++lane) to_.scale.as<float>()[tile.outer + lane] = known.value[lane];
    }
    for (int64_t first = 0; first < tile.depth; first += span)
      blocks.quantize<kernel>(rows.from(first), first, std::min(span, tile.depth - first), known);
  }

  const Quantization& how_;
  const Quantizer& q_;
  const QuantizeTarget& to_;
  QuantizationCounts* counts_;
  int64_t depth_;
  float tensor_scale_;
  VectorRows spare_;  ///< for two copies of a block
};

}  // namespace
}  // namespace nibble
