// Quantization of blocks: statistics, scales, rounding, correction, codes and masks.
//
// Written once for sixteen outer indices in the lanes of a vector (cpu/quantize_tile.hpp) and for the one of a device's
// thread (cuda/thread_lanes.hpp). Each step is a short loop over a block that lies in the first cache, or in the memory
// of a device's block. Not for: where values come from and how they lie in memory.
#pragma once

#include <limits>

#include "quant/arithmetic.hpp"
#include "quant/quantizer.hpp"
#include "tensor/random.hpp"

// Every function here: what arithmetic.hpp says of its own; devices alone call them where they are compiled for some.
// What few quantizers do is a function of its own: inlined at each of its places, it takes compilers minutes.
#if defined(__CUDACC__)
#define NIBBLE_INLINE __device__ __forceinline__
#define NIBBLE_OUT_OF_LINE __device__ __noinline__
#define NIBBLE_UNROLL_BLOCK _Pragma("unroll")
#else
#define NIBBLE_INLINE [[gnu::always_inline]] inline
#define NIBBLE_OUT_OF_LINE [[gnu::noinline]]
#define NIBBLE_UNROLL_BLOCK _Pragma("GCC unroll 8")
#endif

namespace nibble {

/// leaf(0) + leaf(1) + ... of eight terms, by a binary tree.
template <class Real, class Leaf>
NIBBLE_INLINE Real sum_of_eight(Leaf&& leaf) {
  return ((leaf(0) + leaf(1)) + (leaf(2) + leaf(3))) + ((leaf(4) + leaf(5)) + (leaf(6) + leaf(7)));
}

/// Sums of eights, joined pairwise as their number grows: a binary tree over any number of terms.
template <class Real>
class PairwiseSum {
 public:
  NIBBLE_INLINE void add(Real eight) { add(eight, 0); }
  /// Of 2^level eights, as this class sums them; the number of eights before them is a multiple of that.
  NIBBLE_INLINE void add(Real sum, int level) {
    const uint32_t count = 1u << level;
    for (; (count_ >> level & 1u) != 0; ++level) sum = pending_[level] + sum;
    pending_[level] = sum;
    count_ += count;
  }
  NIBBLE_INLINE Real total() const {
    Real sum{};
    for (int level = 0; count_ >> level != 0; ++level)
      if ((count_ >> level & 1u) != 0) sum = pending_[level] + sum;
    return sum;
  }

 private:
  Real pending_[24];
  uint32_t count_ = 0;
};

/// A block of values; what lies behind its last one counts as zero.
template <class Rows>
struct Block {
  using Real = typename Rows::Real;
  using Index = typename Rows::Index;

  Rows rows;
  Index first;  ///< of the tile that the rows are part of
  Index count;

  NIBBLE_INLINE Real load(Index d) const { return d < count ? rows.load(d) : Real{}; }
  NIBBLE_INLINE void store(Index d, Real v) const { rows.store(d, v); }
  NIBBLE_INLINE void store_eight(Index d, const Real (&values)[8]) const {
    NIBBLE_UNROLL_BLOCK
    for (int j = 0; j < 8; ++j) store(d + j, values[j]);
  }
};

template <class Rows, class Term>
NIBBLE_INLINE typename Rows::Real sum_over(const Block<Rows>& block, Term&& term) {
  using Real = typename Rows::Real;
  using Index = typename Rows::Index;
  PairwiseSum<Real> sum;
  Index d = 0;
  for (; d + 8 <= block.count; d += 8) sum.add(sum_of_eight<Real>([&](int j) { return term(d + j); }));
  if (d < block.count) sum.add(sum_of_eight<Real>([&](int j) { return d + j < block.count ? term(d + j) : Real{}; }));
  return sum.total();
}

/// Of one block in each lane.
template <class Real>
struct BlockScale {
  BitsOf<Real> code;  ///< of its format; bit 7: the shifted grid (e4m3 has no other use for a sign)
  Real value;         ///< what it stands for
  Real inverse;       ///< what x is multiplied with before rounding
};

enum class RoundingKernel { nearest, half_odd, stochastic };

/// t of x ~ q s t for the whole tensor, whose statistic, or learned step, is given.
NIBBLE_HOST_DEVICE inline float tensor_scale_of(const Quantizer& q, float statistic) {
  if (!q.needs_tensor_statistic() && !q.learns()) return 1;
  const float scale =
      q.scale == ScaleFormat::e4m3 ? statistic / (q.scale_limit * q.divisor) : statistic / q.divisor + q.epsilon;
  return scale == 0 ? 1 : scale;
}

/// What the code of a block's scale stands for, but for the flag of a shifted grid.
[[gnu::always_inline]] NIBBLE_HOST_DEVICE inline float block_scale_of(ScaleFormat format, uint32_t code) {
  if (format == ScaleFormat::e8m0) return e8m0_value<float>(code);
  constexpr ElementFormat e4m3 = formats::e4m3;
  constexpr uint32_t not_a_number = 0x7f, quiet = 0x7fc00000;
  const uint32_t without_flag = code & 0x7fu;
  return without_flag == not_a_number ? simd::as<float>(quiet) : decode<float>(without_flag, e4m3);
}

/// The largest number of blocks under one correction.
inline constexpr int max_corrected_blocks = 16;

/// What `Lanes` is to the blocks that it is given: types (Rows and its Real and Index), and
///   randoms(stream, part, block, blocks)  eight numbers of each lane's outer index: block `block` of its `blocks`
///   largest_of_square(x), sum_of_square(x)  over the sixteen outer indices of a square, the same in each lane
///   element_parts(), scale_parts(), mask_parts()  whether these are written, by
///   write_codes(eight, bits, low, high), write_scale(block, code), write_mask(eight, bits)
///   counts(), count(elements, passing, clipped)
/// Numbers of eights and blocks count from the outer index's first element.
template <class Lanes>
class BlockQuantizer {
 public:
  using Rows = typename Lanes::Rows;
  using Real = typename Rows::Real;
  using Index = typename Rows::Index;
  using Bits = BitsOf<Real>;
  using Mask = typename RealTraits<Real>::Mask;
  using Scale = BlockScale<Real>;

  /// `depth` is the reduction axis's; `first` is where the tile begins on it; `spare` has room for two copies of a
  /// block.
  NIBBLE_INLINE BlockQuantizer(const Lanes& lanes, const Quantizer& quantizer, const ElementFormat& format,
                               const RandomStream& rounding, const RandomStream& scale_rounding, uint32_t part,
                               float tensor_scale, int64_t depth, int64_t first, const Rows& spare)
      : lanes_(lanes),
        q_(quantizer),
        format_(format),
        rounding_(rounding),
        scale_rounding_(scale_rounding),
        part_(part),
        tensor_scale_(tensor_scale),
        depth_(depth),
        first_(first),
        spare_(spare) {}

  NIBBLE_INLINE Scale tensor_scale() const {
    const Real value = constant<Real>(tensor_scale_);
    return {Bits{}, value, inverse(value)};
  }
  NIBBLE_INLINE Scale own_scale(const Block<Rows>& block) const { return scale_for(statistic(block), q_.divisor); }

  /// Of `count` values whose sum and sum of squares are given; a largest value for Statistic::largest.
  NIBBLE_INLINE Scale scale_of_sums(Real squares, Real sum, float count) const {
    return scale_for(statistic_of_sums(squares, sum, count), q_.divisor);
  }
  NIBBLE_INLINE Scale scale_of_largest(Real largest) const { return scale_for(largest, q_.divisor); }

  /// Values under one correction, or of a block, become q s, or q where the scale is the tensor's or the row's,
  /// `known`. `first` and `count` are in the tile. Without `correctable` there is one block.
  template <RoundingKernel kernel, bool correctable = true>
  NIBBLE_INLINE void quantize(const Rows& rows, Index first, Index count, const Scale& known) const {
    const Index group = q_.blocks() ? static_cast<Index>(q_.group) : count;
    Scale scales[correctable ? max_corrected_blocks : 1];
    PairwiseSum<Real> squares, products;  // of y and q, for the correction
    for (Index start = 0; start < count; start += group) {
      const Block<Rows> block{rows.from(start), first + start, group < count - start ? group : count - start};
      scales[start / group] = quantize_block<kernel, correctable>(block, known, squares, products);
    }
    if (correctable && q_.correction_group != 0) correct(first, count, squares.total(), products.total(), scales);
    if (lanes_.scale_parts())
      for (Index start = 0; start < count; start += group)
        lanes_.write_scale((first_ + first + start) / q_.group, scales[start / group].code);
    if (lanes_.element_parts()) write_codes(rows, first, count, scales);
    if (!q_.blocks()) return;
    for (Index start = 0; start < count; start += group) {
      const Real scale = scales[start / group].value;
      for (Index d = start; d < start + group; ++d) rows.store(d, rows.load(d) * scale);
    }
  }

 private:
  NIBBLE_INLINE Real statistic(const Block<Rows>& block) const {
    if (q_.statistic == Statistic::largest) {
      Real largest{};
      for (Index d = 0; d < block.count; ++d) largest = larger_magnitude(largest, magnitude(block.load(d)));
      return q_.extent == Extent::square ? lanes_.largest_of_square(largest) : largest;
    }
    const Real squares = sum_over(block, [&](Index d) { return block.load(d) * block.load(d); });
    const Real sum =
        q_.statistic == Statistic::root_mean_square ? Real{} : sum_over(block, [&](Index d) { return block.load(d); });
    return statistic_of_sums(squares, sum, static_cast<float>(block.count));
  }
  NIBBLE_INLINE Real statistic_of_sums(Real squares, Real sum, float count) const {
    const Real mean_square = squares / count;
    if (q_.statistic == Statistic::root_mean_square) return RealTraits<Real>::square_root(mean_square);
    const Real mean = sum / count;
    const Real variance = mean_square - mean * mean;
    return RealTraits<Real>::square_root(variance < 0.0f ? Real{} : variance);
  }

  NIBBLE_INLINE Scale scale_for(Real statistic, float divisor) const {
    Scale scale{};
    const Real raw = statistic / divisor + q_.epsilon;
    if (q_.scale == ScaleFormat::e8m0) {
      scale.code = e8m0_code(raw, q_.round_up);
      scale.value = e8m0_value<Real>(scale.code);
      scale.inverse = inverse(scale.value);
    } else if (q_.scale == ScaleFormat::e4m3) {
      // An infinity stays none under a tensor's scale of other data: the difference makes it a NaN.
      const Real in_format = raw / tensor_scale_ + (raw - raw), rounded = round_nearest(in_format, e4m3());
      scale = in_e4m3(in_format, rounded);
      // A block whose scale rounds to 0 has elements that round to 0 at scale 1.
      scale.inverse = inverse((rounded == 0.0f ? constant<Real>(1) : scale.value) * tensor_scale_);
    } else {
      scale.value = raw == 0.0f ? constant<Real>(1) : raw;
      scale.inverse = inverse(scale.value);
    }
    return scale;
  }
  /// Finite, so that zeros stay zeros: below scales of 2^-128 values lose their last bits, then themselves.
  NIBBLE_INLINE Real inverse(Real scale) const {
    const Real inverse = q_.shrink / scale, largest = constant<Real>(std::numeric_limits<float>::max());
    return inverse > largest ? largest : inverse;
  }
  /// A copy: devices do not have the constant itself.
  NIBBLE_INLINE static ElementFormat e4m3() {
    constexpr ElementFormat format = formats::e4m3;
    return format;
  }
  NIBBLE_INLINE static Scale in_e4m3(Real exact, Real rounded) {
    const Mask number = exact == exact;
    const Bits not_a_number = Bits{} + 0x7fu;
    Scale scale{};
    scale.code = number ? encode(rounded, e4m3()) : not_a_number;
    scale.value = number ? rounded : exact;
    return scale;
  }

  /// Replaces a block's values by their elements.
  template <RoundingKernel kernel, bool correctable>
  NIBBLE_INLINE Scale quantize_block(const Block<Rows>& block, const Scale& known, PairwiseSum<Real>& squares,
                                     PairwiseSum<Real>& products) const {
    const bool noted = q_.mask != MaskRule::all || lanes_.counts(), sparse = q_.sparsity != Sparsity::none,
               chooses = q_.choice != BlockChoice::none;
    const Real size = q_.blocks() ? statistic(block) : Real{};
    const Block<Rows> original{spare_, block.first, block.count};
    if (noted || sparse || chooses)
      for (Index d = 0; d < block.count; ++d) original.store(d, block.rows.load(d));
    if (chooses) return choose<kernel>(original, block, size);
    const Scale scale = q_.blocks() ? scale_for(size, q_.divisor) : known;
    const bool corrected = correctable && q_.correction_group != 0;
    round<kernel>(block, scale.inverse, rounding_, [&](Index d, const Real(&y)[8], const Real(&q)[8]) {
      block.store_eight(d, q);
      if (!corrected) return;
      squares.add(sum_of_eight<Real>([&](int j) { return y[j] * y[j]; }));
      products.add(sum_of_eight<Real>([&](int j) { return y[j] * q[j]; }));
    });
    if (sparse) keep_larger_pairs(original, block);
    if (noted) note(original, block, scale);
    return scale;
  }

  /// Calls each(d, y, q) for eight values from d on: y is what is rounded, q its element. Behind a block's last value
  /// they are those of zero, and may be stored: tiles have memory for them.
  template <RoundingKernel kernel, class Each>
  NIBBLE_INLINE void round(const Block<Rows>& block, Real inverse, const RandomStream& stream, Each&& each) const {
    const ElementFormat format = format_;  // a copy: nothing that is stored can be part of it
    for (Index d = 0; d < block.count; d += 8) {
      Real y[8], q[8];
      if (d + 8 <= block.count) {
        NIBBLE_UNROLL_BLOCK
        for (int j = 0; j < 8; ++j) y[j] = block.rows.load(d + j) * inverse;
      } else {
        for (int j = 0; j < 8; ++j) y[j] = block.load(d + j) * inverse;
      }
      if constexpr (kernel == RoundingKernel::stochastic) {
        const auto random = lanes_.randoms(stream, part_, (first_ + block.first + d) / 8, (depth_ + 7) / 8);
        NIBBLE_UNROLL_BLOCK
        for (int j = 0; j < 8; ++j) q[j] = round_stochastic(y[j], random.uniform(j), format);
      } else {
        NIBBLE_UNROLL_BLOCK
        for (int j = 0; j < 8; ++j)
          q[j] = kernel == RoundingKernel::half_odd ? round_half_odd(y[j], format) : round_to_even(y[j], format);
      }
      each(d, y, q);
    }
  }

  /// Of four pairs in a row the two with the larger norms, the lower ones of equals; the others become zero.
  NIBBLE_OUT_OF_LINE static void keep_larger_pairs(const Block<Rows>& original, const Block<Rows>& block) {
    for (Index first = 0; first < block.count; first += 8) {
      Real norm[4];
      for (int pair = 0; pair < 4; ++pair) {
        const Real a = original.load(first + 2 * pair), b = original.load(first + 2 * pair + 1);
        norm[pair] = a * a + b * b;
      }
      for (int pair = 0; pair < 4; ++pair) {
        Bits before{};  // pairs that come before this one
        for (int other = 0; other < 4; ++other) {
          if (other == pair) continue;
          before += RealTraits<Real>::ones(other < pair ? norm[other] >= norm[pair] : norm[other] > norm[pair]);
        }
        for (Index d = first + 2 * pair; d < first + 2 * pair + 2; ++d)
          block.store(d, before < 2u ? block.load(d) : Real{});
      }
    }
  }

  /// Whether a block's values stand on the shifted grid.
  NIBBLE_INLINE static Real on_grid(Real y, Bits scale_code) { return (scale_code & 0x80u) != 0u ? -y - 0.25f : y; }

  NIBBLE_OUT_OF_LINE void note(const Block<Rows>& original, const Block<Rows>& block, const Scale& scale) const {
    for (Index first = 0; first < block.count; first += 8) {
      Bits passing{}, clipped{};  // bits of eight values; their number
      for (int j = 0; j < 8; ++j) {
        Real y = original.load(first + j) * scale.inverse;
        if (q_.choice == BlockChoice::shifted) y = on_grid(y, scale.code);
        const Mask passes = q_.mask == MaskRule::clip    ? magnitude(y) < q_.mask_width
                            : q_.mask == MaskRule::trust ? magnitude(y - block.load(first + j)) <= q_.mask_width
                                                         : RealTraits<Real>::all();
        passing |= RealTraits<Real>::ones(passes) << static_cast<uint32_t>(j);
        clipped += RealTraits<Real>::ones(magnitude(y) > format_.max);
      }
      if (lanes_.mask_parts()) lanes_.write_mask((first_ + block.first + first) / 8, passing);
      if (lanes_.counts())
        lanes_.count(block.count - first < 8 ? static_cast<int>(block.count - first) : 8, passing, clipped);
    }
  }

  /// Tries a block's scales one after the other; the first of equals stays, and where errors overflow.
  template <RoundingKernel kernel>
  NIBBLE_OUT_OF_LINE Scale choose(const Block<Rows>& original, const Block<Rows>& block, Real size) const {
    const Block<Rows> candidate{spare_.from(block.count), block.first, block.count};
    Scale best{};
    Real least{};
    for (int number = 0; number < (q_.choice == BlockChoice::shifted ? 4 : 2); ++number) {
      const bool shifted = number >= 2;
      const float onto = (number % 2 == 0 ? 1.0f : 2.0f / 3) + (shifted ? 0.25f / format_.max : 0.0f);
      Scale scale = scale_for(size, q_.divisor * onto);
      const Real step = scale.value * tensor_scale_;
      PairwiseSum<Real> errors;
      const auto keep = [&](Index d, const Real(&q)[8]) {
        candidate.store_eight(d, q);
        errors.add(sum_of_eight<Real>([&](int j) {
          const Real difference = q[j] * step - original.load(d + j);
          return difference * difference;
        }));
      };
      if (shifted) {
        scale.code |= 0x80u;
        for (Index d = 0; d < block.count; d += 8) {
          Real q[8];
          for (int j = 0; j < 8; ++j)
            q[j] = -(round_nearest(-original.load(d + j) * scale.inverse - 0.25f, format_) + 0.25f);
          keep(d, q);
        }
      } else {
        // Draws of their own: with common ones the choice would hide a part of its bias.
        round<kernel>(original, scale.inverse, number == 0 ? rounding_ : scale_rounding_,
                      [&](Index d, const Real(&)[8], const Real(&q)[8]) { keep(d, q); });
      }
      Real error = errors.total();
      if (q_.extent == Extent::square) error = lanes_.sum_of_square(error);
      const Mask better = number == 0 ? RealTraits<Real>::all() : error < least;
      least = better ? error : least;
      best.code = better ? scale.code : best.code;
      best.value = better ? scale.value : best.value;
      best.inverse = better ? scale.inverse : best.inverse;
      for (Index d = 0; d < block.count; ++d) block.store(d, better ? candidate.load(d) : block.load(d));
    }
    if (lanes_.counts()) note(original, block, best);
    return best;
  }

  /// EDEN: scales times <y,y>/<y,q>, rounded stochastically (arXiv 2601.22813, algorithm 1).
  template <int blocks>
  NIBBLE_OUT_OF_LINE void correct(Index first, Index count, Real squares, Real products, Scale (&scales)[blocks]) const {
    const Real correction = products == 0.0f ? constant<Real>(1) : squares / products;
    const int64_t draws = (depth_ / q_.group + 7) / 8;
    for (Index start = 0; start < count; start += q_.group) {
      const int64_t number = (first_ + first + start) / q_.group;
      const auto random = lanes_.randoms(scale_rounding_, part_, number / 8, draws);
      Scale& scale = scales[start / q_.group];
      const Real exact = scale.value * correction;
      scale = in_e4m3(exact, round_stochastic(exact, random.uniform(static_cast<int>(number % 8)), e4m3()));
    }
  }

  template <int blocks>
  NIBBLE_INLINE void write_codes(const Rows& rows, Index first, Index count, const Scale (&scales)[blocks]) const {
    const ElementFormat format = format_;
    const int bits = format.bits();
    for (Index d = 0; d < count; d += 8) {
      Bits low{}, high{};  // of eight codes in each lane
      NIBBLE_UNROLL_BLOCK
      for (int j = 0; j < 8; ++j) {
        Real element = rows.load(d + j);
        if (q_.choice == BlockChoice::shifted) element = on_grid(element, scales[d / q_.group].code);
        const Bits code = encode(element, format);
        const int place = j * bits;
        if (place < 32) low |= code << static_cast<uint32_t>(place);
        if (place >= 32) high |= code << static_cast<uint32_t>(place - 32);
        else if (place + bits > 32) high |= code >> static_cast<uint32_t>(32 - place);
      }
      lanes_.write_codes((first_ + first + d) / 8, bits, low, high);
    }
  }

  const Lanes& lanes_;
  const Quantizer& q_;
  ElementFormat format_;
  const RandomStream& rounding_;
  const RandomStream& scale_rounding_;
  uint32_t part_;
  float tensor_scale_;
  int64_t depth_, first_;
  Rows spare_;
};

}  // namespace nibble

#undef NIBBLE_INLINE
#undef NIBBLE_OUT_OF_LINE
#undef NIBBLE_UNROLL_BLOCK
