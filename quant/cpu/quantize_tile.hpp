// Quantization of one tile: statistics, scales, rounding, correction, codes and masks of its blocks.
//
// Lanes are outer indices: each of the sixteen has blocks, scales and random numbers of its own. Each step is a short
// loop over a block that lies in the first cache. Part of the tile kernels.
#pragma once

#include <bit>
#include <limits>

#include "quant/arithmetic.hpp"
#include "quant/cpu/move_tile.hpp"
#include "quant/cpu/random_lanes.hpp"
#include "quant/cpu/tile_kernels.hpp"

namespace nibble {
namespace {

using simd::i32x, simd::u32x;

/// leaf(first) + leaf(first + 1) + ... of eight terms, by a binary tree.
template <class Leaf>
[[gnu::always_inline]] inline f32x sum_of_eight(Leaf&& leaf) {
  return ((leaf(0) + leaf(1)) + (leaf(2) + leaf(3))) + ((leaf(4) + leaf(5)) + (leaf(6) + leaf(7)));
}

/// Sums of eights, joined pairwise as their number grows: a binary tree over any number of terms.
class PairwiseSum {
 public:
  [[gnu::always_inline]] void add(f32x eight) {
    int level = 0;
    for (; (count_ >> level & 1u) != 0; ++level) eight = pending_[level] + eight;
    pending_[level] = eight;
    ++count_;
  }
  [[gnu::always_inline]] f32x total() const {
    f32x sum{};
    for (int level = 0; count_ >> level != 0; ++level)
      if ((count_ >> level & 1u) != 0) sum = pending_[level] + sum;
    return sum;
  }

 private:
  f32x pending_[24];
  uint32_t count_ = 0;
};

/// A block of rows in a tile; what lies behind its last row counts as zero.
struct Block {
  float* x;
  int64_t first;  ///< of the tile
  int64_t count;

  [[gnu::always_inline]] f32x load(int64_t d) const { return d < count ? simd::load(x + d * lanes) : f32x{}; }
  [[gnu::always_inline]] void store(int64_t d, f32x v) const { simd::store(x + d * lanes, v); }
};

template <class Term>
[[gnu::always_inline]] inline f32x sum_over(const Block& block, Term&& term) {
  PairwiseSum sum;
  int64_t d = 0;
  for (; d + 8 <= block.count; d += 8) sum.add(sum_of_eight([&](int64_t j) { return term(d + j); }));
  if (d < block.count) sum.add(sum_of_eight([&](int64_t j) { return d + j < block.count ? term(d + j) : f32x{}; }));
  return sum.total();
}

/// Of one block in each lane.
struct BlockScale {
  u32x code;     ///< of its format; bit 7: the shifted grid (e4m3 has no other use for a sign)
  f32x value;    ///< what it stands for
  f32x inverse;  ///< what x is multiplied with before rounding
};

enum class RoundingKernel { nearest, half_odd, stochastic };

class TileQuantizer {
 public:
  TileQuantizer(const TileSource& from, float tensor_scale, const QuantizeTarget& to, QuantizationCounts* counts,
                float* spare)
      : how_(from.how),
        q_(from.how.quantizer),
        format_(*q_.element),
        parts_(to.parts),
        scale_(to.scale),
        counts_(counts),
        depth_(from.tiling.depth),
        tensor_scale_(tensor_scale),
        spare_(spare) {}

  /// The tile's values become q s, or q where the scale is the tensor's or the row's.
  void quantize(const Tile& tile) const {
    if (q_.rounding == Rounding::stochastic) quantize_by<RoundingKernel::stochastic>(tile);
    else if (format_.half_odd()) quantize_by<RoundingKernel::half_odd>(tile);
    else quantize_by<RoundingKernel::nearest>(tile);
  }

 private:
  static constexpr int max_groups = 16;

  template <RoundingKernel kernel>
  [[gnu::noinline]] void quantize_by(const Tile& tile) const {
    const int64_t group = q_.blocks() ? q_.group : tile.depth;
    const int64_t span = std::max<int64_t>(group, q_.correction_group);
    BlockScale scales[max_groups];
    for (int64_t first = 0; first < tile.depth; first += span) {
      const int64_t end = std::min(first + span, tile.depth);
      PairwiseSum squares, products;  // of y and q, for the correction
      for (int64_t start = first; start < end; start += group) {
        const Block block{tile.row(start), start, std::min(group, tile.depth - start)};
        scales[(start - first) / group] = quantize_block<kernel>(tile, block, squares, products);
      }
      if (q_.correction_group != 0) correct(tile, first, end, squares.total(), products.total(), scales);
      if (parts_.scales)
        for (int64_t start = first; start < end; start += group)
          store_scale_codes(tile, start, scales[(start - first) / group].code);
      if (parts_.codes) store_codes(tile, first, end, scales);
      if (!q_.blocks()) continue;
      for (int64_t start = first; start < end; start += group) {
        const f32x scale = scales[(start - first) / group].value;
        for (int64_t d = start; d < start + group; ++d) simd::store(tile.row(d), simd::load(tile.row(d)) * scale);
      }
    }
    if (q_.extent == Extent::row)
      for (int64_t lane = 0; lane < tile.width; ++lane) scale_.as<float>()[tile.outer + lane] = scales[0].value[lane];
  }

  f32x statistic(const Block& block) const {
    if (q_.statistic == Statistic::largest) {
      f32x largest{};
      for (int64_t d = 0; d < block.count; ++d) largest = larger_magnitude(largest, magnitude(block.load(d)));
      return q_.extent == Extent::square ? largest_lane(largest) : largest;
    }
    const auto count = static_cast<float>(block.count);
    const f32x mean_square = sum_over(block, [&](int64_t d) { return block.load(d) * block.load(d); }) / count;
    if (q_.statistic == Statistic::root_mean_square) return simd::sqrt(mean_square);
    const f32x mean = sum_over(block, [&](int64_t d) { return block.load(d); }) / count;
    const f32x variance = mean_square - mean * mean;
    return simd::sqrt(variance < 0.0f ? f32x{} : variance);
  }
  static f32x largest_lane(f32x x) {
    float v[lanes];
    simd::store(v, x);
    for (int lane = 1; lane < lanes; ++lane) v[0] = larger_magnitude(v[0], v[lane]);
    return simd::splat(v[0]);
  }

  BlockScale scale_for(f32x statistic, float divisor) const {
    BlockScale scale{};
    const f32x raw = statistic / divisor + q_.epsilon;
    if (q_.scale == ScaleFormat::e8m0) {
      scale.code = e8m0_code(raw, q_.round_up);
      scale.value = e8m0_value<f32x>(scale.code);
      scale.inverse = inverse(scale.value);
    } else if (q_.scale == ScaleFormat::e4m3) {
      // An infinity stays none under a tensor's scale of other data: the difference makes it a NaN.
      const f32x in_format = raw / tensor_scale_ + (raw - raw), rounded = round_nearest(in_format, formats::e4m3);
      scale = in_e4m3(in_format, rounded);
      // A block whose scale rounds to 0 has elements that round to 0 at scale 1.
      scale.inverse = inverse((rounded == 0.0f ? simd::splat(1) : scale.value) * tensor_scale_);
    } else {
      scale.value = raw == 0.0f ? simd::splat(1) : raw;
      scale.inverse = inverse(scale.value);
    }
    return scale;
  }
  /// Finite, so that zeros stay zeros: below scales of 2^-128 values lose their last bits, then themselves.
  f32x inverse(f32x scale) const {
    const f32x inverse = q_.shrink / scale, largest = simd::splat(std::numeric_limits<float>::max());
    return inverse > largest ? largest : inverse;
  }
  static BlockScale in_e4m3(f32x exact, f32x rounded) {
    const i32x number = exact == exact;
    const u32x not_a_number = u32x{} + 0x7fu;
    BlockScale scale{};
    scale.code = number ? encode(rounded, formats::e4m3) : not_a_number;
    scale.value = number ? rounded : exact;
    return scale;
  }

  /// Replaces a block's values by their elements.
  template <RoundingKernel kernel>
  [[gnu::always_inline]] BlockScale quantize_block(const Tile& tile, const Block& block, PairwiseSum& squares,
                                                   PairwiseSum& products) const {
    const bool noted = q_.mask != MaskRule::all || counts_, sparse = q_.sparsity != Sparsity::none;
    const f32x size = q_.extent == Extent::tensor ? f32x{} : statistic(block);
    if (noted || sparse || q_.choice != BlockChoice::none) std::copy_n(block.x, block.count * lanes, spare_);
    const Block original{spare_, block.first, block.count};
    if (q_.choice != BlockChoice::none) return choose<kernel>(tile, original, block, size);
    const BlockScale scale = q_.extent == Extent::tensor
                                 ? BlockScale{{}, simd::splat(tensor_scale_), inverse(simd::splat(tensor_scale_))}
                                 : scale_for(size, q_.divisor);
    const bool corrected = q_.correction_group != 0;
    round<kernel>(tile, block, scale.inverse, how_.rounding, [&](int64_t d, const f32x(&y)[8], const f32x(&q)[8]) {
      store_eight(block, d, q);
      if (!corrected) return;
      squares.add(sum_of_eight([&](int j) { return y[j] * y[j]; }));
      products.add(sum_of_eight([&](int j) { return y[j] * q[j]; }));
    });
    if (sparse) keep_larger_pairs(original, block);
    if (noted) note(tile, original, block, scale);
    return scale;
  }

  /// Calls each(d, y, q) for eight rows from d on: y is what is rounded, q its element. Behind a block's last row they
  /// are those of zero.
  template <RoundingKernel kernel, class Each>
  [[gnu::always_inline]] void round(const Tile& tile, const Block& block, f32x inverse, const RandomStream& stream,
                                    Each&& each) const {
    const ElementFormat format = format_;  // a copy: nothing that is stored can be part of it
    for (int64_t d = 0; d < block.count; d += 8) {
      f32x y[8], q[8];
      if (d + 8 <= block.count) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) y[j] = simd::load(block.x + (d + j) * lanes) * inverse;
      } else {
        for (int j = 0; j < 8; ++j) y[j] = block.load(d + j) * inverse;
      }
      if constexpr (kernel == RoundingKernel::stochastic) {
        const simd::RandomLanes random = randoms(stream, tile, (tile.first + block.first + d) / 8, (depth_ + 7) / 8);
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) q[j] = round_stochastic(y[j], random.uniform(j), format);
      } else {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j)
          q[j] = kernel == RoundingKernel::half_odd ? round_half_odd(y[j], format) : round_to_even(y[j], format);
      }
      each(d, y, q);
    }
  }
  /// Rows behind a block's last one may be written: a tile has memory for them.
  [[gnu::always_inline]] static void store_eight(const Block& to, int64_t d, const f32x (&q)[8]) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) to.store(d + j, q[j]);
  }

  [[gnu::always_inline]] simd::RandomLanes randoms(const RandomStream& stream, const Tile& tile, int64_t block,
                                                   int64_t blocks_of_outer) const {
    return {stream, how_.part, static_cast<uint32_t>(tile.outer * blocks_of_outer + block),
            static_cast<uint32_t>(blocks_of_outer)};
  }

  /// Of four pairs in a row the two with the larger norms, the lower ones of equals; the others become zero.
  static void keep_larger_pairs(const Block& original, const Block& block) {
    for (int64_t first = 0; first < block.count; first += 8) {
      f32x norm[4];
      for (int pair = 0; pair < 4; ++pair) {
        const f32x a = original.load(first + 2 * pair), b = original.load(first + 2 * pair + 1);
        norm[pair] = a * a + b * b;
      }
      for (int pair = 0; pair < 4; ++pair) {
        i32x smaller_than{};  // minus the number of pairs before this one
        for (int other = 0; other < 4; ++other) {
          if (other == pair) continue;
          smaller_than += other < pair ? norm[other] >= norm[pair] : norm[other] > norm[pair];
        }
        for (int64_t d = first + 2 * pair; d < first + 2 * pair + 2; ++d)
          block.store(d, smaller_than > -2 ? block.load(d) : f32x{});
      }
    }
  }

  void note(const Tile& tile, const Block& original, const Block& block, const BlockScale& scale) const {
    for (int64_t first = 0; first < block.count; first += 8) {
      u32x bits{};
      i32x clipped{};  // minus their number
      for (int64_t j = 0; j < 8; ++j) {
        f32x y = original.load(first + j) * scale.inverse;
        if (q_.choice == BlockChoice::shifted) y = (scale.code & 0x80u) != 0u ? -y - 0.25f : y;
        const i32x passes = q_.mask == MaskRule::clip    ? magnitude(y) < q_.mask_width
                            : q_.mask == MaskRule::trust ? magnitude(y - block.load(first + j)) <= q_.mask_width
                                                         : i32x{} - 1;
        bits |= (simd::as<u32x>(passes) & 1u) << static_cast<uint32_t>(j);
        clipped += magnitude(y) > format_.max;
      }
      uint32_t bytes[lanes];
      std::memcpy(bytes, &bits, sizeof bits);
      if (parts_.mask)
        for (int64_t lane = 0; lane < tile.width; ++lane)
          parts_.mask.row<uint8_t>(tile.outer + lane)[(tile.first + block.first + first) / 8] =
              static_cast<uint8_t>(bytes[lane]);
      if (!counts_) continue;
      const int64_t rows = std::min<int64_t>(8, block.count - first);
      for (int64_t lane = 0; lane < tile.width; ++lane) {
        counts_->elements += rows;
        counts_->clipped -= clipped[lane];
        counts_->masked += rows - std::popcount(bytes[lane] & ((1u << rows) - 1));
      }
    }
  }

  /// Tries a block's scales one after the other; the first of equals stays, and where errors overflow.
  template <RoundingKernel kernel>
  [[gnu::always_inline]] BlockScale choose(const Tile& tile, const Block& original, const Block& block,
                                           f32x size) const {
    const Block candidate{spare_ + block.count * lanes, block.first, block.count};
    BlockScale best{};
    f32x least{};
    for (int number = 0; number < (q_.choice == BlockChoice::shifted ? 4 : 2); ++number) {
      const bool shifted = number >= 2;
      const float onto = (number % 2 == 0 ? 1.0f : 2.0f / 3) + (shifted ? 0.25f / format_.max : 0.0f);
      BlockScale scale = scale_for(size, q_.divisor * onto);
      const f32x step = scale.value * tensor_scale_;
      PairwiseSum errors;
      const auto keep = [&](int64_t d, const f32x(&q)[8]) {
        store_eight(candidate, d, q);
        errors.add(sum_of_eight([&](int64_t j) {
          const f32x difference = q[j] * step - original.load(d + j);
          return difference * difference;
        }));
      };
      if (shifted) {
        scale.code |= 0x80u;
        for (int64_t d = 0; d < block.count; d += 8) {
          f32x q[8];
          for (int j = 0; j < 8; ++j)
            q[j] = -(round_nearest(-original.load(d + j) * scale.inverse - 0.25f, format_) + 0.25f);
          keep(d, q);
        }
      } else {
        // Draws of their own: with common ones the choice would hide a part of its bias.
        round<kernel>(tile, original, scale.inverse, number == 0 ? how_.rounding : how_.scale_rounding,
                      [&](int64_t d, const f32x(&)[8], const f32x(&q)[8]) { keep(d, q); });
      }
      f32x error = errors.total();
      if (q_.extent == Extent::square) error = simd::splat(simd::sum(error));
      const i32x better = number == 0 ? i32x{} - 1 : error < least;
      least = better ? error : least;
      best.code = better ? scale.code : best.code;
      best.value = better ? scale.value : best.value;
      best.inverse = better ? scale.inverse : best.inverse;
      for (int64_t d = 0; d < block.count; ++d) block.store(d, better ? candidate.load(d) : block.load(d));
    }
    if (counts_) note(tile, original, block, best);
    return best;
  }

  /// EDEN: scales times <y,y>/<y,q>, rounded stochastically (arXiv 2601.22813, algorithm 1).
  void correct(const Tile& tile, int64_t first, int64_t end, f32x squares, f32x products,
               BlockScale (&scales)[max_groups]) const {
    const f32x correction = products == 0.0f ? simd::splat(1) : squares / products;
    const int64_t draws = (depth_ / q_.group + 7) / 8;
    for (int64_t start = first; start < end; start += q_.group) {
      const int64_t number = (tile.first + start) / q_.group;
      const simd::RandomLanes random = randoms(how_.scale_rounding, tile, number / 8, draws);
      BlockScale& scale = scales[(start - first) / q_.group];
      const f32x exact = scale.value * correction;
      scale = in_e4m3(exact, round_stochastic(exact, random.uniform(static_cast<int>(number % 8)), formats::e4m3));
    }
  }

  void store_scale_codes(const Tile& tile, int64_t start, u32x code) const {
    for (int64_t lane = 0; lane < tile.width; ++lane)
      parts_.scales.row<uint8_t>(tile.outer + lane)[(tile.first + start) / q_.group] = static_cast<uint8_t>(code[lane]);
  }

  void store_codes(const Tile& tile, int64_t first, int64_t end, const BlockScale (&scales)[max_groups]) const {
    const ElementFormat format = format_;
    const int bits = format.bits();
    for (int64_t d = first; d < end; d += 8) {
      uint32_t words[2][lanes];  // of eight codes in each lane
      u32x low{}, high{};
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        f32x element = simd::load(tile.row(d + j));
        if (q_.choice == BlockChoice::shifted)
          element = (scales[(d - first) / q_.group].code & 0x80u) != 0u ? -element - 0.25f : element;
        const u32x code = encode(element, format);
        const int place = j * bits;
        if (place < 32) low |= code << static_cast<uint32_t>(place);
        if (place >= 32) high |= code << static_cast<uint32_t>(place - 32);
        else if (place + bits > 32) high |= code >> static_cast<uint32_t>(32 - place);
      }
      std::memcpy(words[0], &low, sizeof low);
      std::memcpy(words[1], &high, sizeof high);
      auto* to = parts_.codes.row<uint8_t>(tile.outer) + (tile.first + d) / 8 * bits;
      for (int64_t lane = 0; lane < tile.width; ++lane, to += parts_.codes.stride) {
        const uint64_t eight = uint64_t{words[1][lane]} << 32 | words[0][lane];
        if (bits == 4) std::memcpy(to, words[0] + lane, 4);  // a length that the compiler knows is no call
        else if (bits == 8) std::memcpy(to, &eight, 8);
        else std::memcpy(to, &eight, static_cast<size_t>(bits));
      }
    }
  }

  const Quantization& how_;
  const Quantizer& q_;
  ElementFormat format_;
  const QuantizedParts& parts_;
  const Tensor& scale_;
  QuantizationCounts* counts_;
  int64_t depth_;
  float tensor_scale_;
  float* spare_;  ///< for two copies of a block
};

}  // namespace
}  // namespace nibble
