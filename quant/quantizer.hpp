// How a matrix becomes numbers of few bits, as data: format, scales, rounding, correction, mask.
//
// A quantizer sees a matrix x with a reduction axis (that of the product it goes into) and replaces each element by
//   x ~ q s t        q: element, s: block scale, t: scale of the tensor or the row (f32)
// where blocks run along the reduction axis. Papers differ in nothing but the fields below; recipe.cpp has their rows.
// Not for: the computation (quantize.hpp).
#pragma once

#include <cstdint>

#include "quant/element_format.hpp"

namespace nibble {

enum class ScaleFormat {
  f32,   ///< one for the tensor or a row; stays out of the product, which is multiplied with it afterwards
  e8m0,  ///< a power of two for each block
  e4m3,  ///< for each block, under one f32 for the tensor (NVFP4)
};

enum class Extent { tensor, row, block, square };

/// What of the values under one scale sets it.
enum class Statistic {
  largest,            ///< max |x|
  root_mean_square,   ///< QuEST on rows
  standard_deviation  ///< QuEST on MX blocks: the mean is taken out
};

/// A scale of the tensor that training learns, instead of a statistic that sets it (learned_step.hpp).
enum class LearnedStep {
  none,
  lsq,  ///< every element tells the step (arXiv 1902.08153)
  pact  ///< only clipped elements do (arXiv 1805.06085)
};

enum class Rounding { nearest, stochastic };

/// Several scales tried for each block; the one with the smaller squared error wins.
enum class BlockChoice {
  none,
  four_over_six,  ///< the largest value on 6 or on 4 (arXiv 2512.02010)
  shifted         ///< those, and both with a grid shifted by a quarter (arXiv 2605.12327)
};

/// Which elements pass a gradient on.
enum class MaskRule {
  all,
  clip,  ///< |x| / (s t) below mask_width
  trust  ///< |x / (s t) - q| at most mask_width
};

/// Zeros put in before rounding.
enum class Sparsity { none, two_of_four_pairs /**< of 4 pairs in a row the 2 of larger norm: QuEST's INT4 2:4 */ };

struct Quantizer {
  const ElementFormat* element = nullptr;  ///< null: x stays as it is
  ScaleFormat scale = ScaleFormat::f32;
  Extent extent = Extent::tensor;
  int group = 0;  ///< of a block or square
  Statistic statistic = Statistic::largest;
  float divisor = 1;  ///< the scale is statistic / divisor + epsilon, rounded to its format
  float epsilon = 0;
  bool round_up = false;    ///< an e8m0 scale goes up to the next power of two, not down
  float scale_limit = 448;  ///< the largest e4m3 scale, which the tensor's largest value gets
  float shrink = 1;         ///< x is multiplied with it before rounding (3/4), the result divided by it
  float gain = 1;           ///< the result is multiplied with it (projection-magnitude alignment)
  Rounding rounding = Rounding::nearest;
  BlockChoice choice = BlockChoice::none;
  int correction_group = 0;  ///< EDEN: <x,x>/<x,q> over so many elements goes into their scales; 0: none
  MaskRule mask = MaskRule::all;
  float mask_width = 0;
  Sparsity sparsity = Sparsity::none;
  LearnedStep learned = LearnedStep::none;
  int history = 0;  ///< the tensor's statistic is the largest of so many earlier steps; 0: its own

  constexpr bool quantizes() const { return element != nullptr; }
  constexpr bool blocks() const { return extent == Extent::block || extent == Extent::square; }
  constexpr bool learns() const { return learned != LearnedStep::none; }
  /// Whether the tensor's statistic must be known before the first element is rounded.
  constexpr bool needs_tensor_statistic() const {
    return quantizes() && !learns() && (extent == Extent::tensor || scale == ScaleFormat::e4m3);
  }
  /// Of q s, which a product multiplies: at most 8 are exact in bf16.
  constexpr int significant_bits() const {
    if (!quantizes()) return 8;
    if (blocks() && scale == ScaleFormat::f32) return 24;
    const int shifted_grid = choice == BlockChoice::shifted ? 3 : 0;
    return element->significant_bits() + shifted_grid + (scale == ScaleFormat::e4m3 ? 4 : 0);
  }
  constexpr bool exact_in_bf16() const { return significant_bits() <= 8; }
  /// Integers without block scales, which an int8 product multiplies as they are.
  constexpr bool integers() const {
    return quantizes() && element->fixed_point() && !blocks() && element->quantum() == 1 && sparsity == Sparsity::none;
  }
  /// Whether codes and block scales of one byte say all.
  constexpr bool packable() const {
    return quantizes() && sparsity == Sparsity::none && !(blocks() && scale == ScaleFormat::f32);
  }
  /// Of memory for an element, its share of block scales included.
  constexpr double bits_per_element() const {
    if (!quantizes()) return 16;
    const int under_one_scale = extent == Extent::square ? group * group : group;
    return element->bits() + (blocks() ? 8.0 / under_one_scale : 0.0);
  }
  bool operator==(const Quantizer&) const = default;
};

enum class Signs { none, fixed, random };

/// A Hadamard transform of the reduction axis, in blocks of `size`, after a change of signs: x D H / sqrt(size).
struct Rotation {
  int64_t size = 0;  ///< 0: none; `full`: one block over the whole axis
  Signs signs = Signs::none;

  static constexpr int64_t full = -1;
  explicit operator bool() const { return size != 0; }
  int64_t over(int64_t depth) const { return size == full ? depth : size; }
  bool operator==(const Rotation&) const = default;
};

}  // namespace nibble
