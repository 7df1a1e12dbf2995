// The quantizers of the papers, each with its constants and where they come from: what recipe.cpp combines.
#pragma once

#include "quant/quantizer.hpp"

namespace nibble::quantizers {

// ---- One scale for the tensor or the row: absmax onto the largest value.

constexpr Quantizer per_tensor(const ElementFormat& element) { return {.element = &element, .divisor = element.max}; }
constexpr Quantizer per_row(const ElementFormat& element) {
  return {.element = &element, .extent = Extent::row, .divisor = element.max};
}
constexpr Quantizer delayed(Quantizer quantizer, int history) {
  quantizer.history = history;
  return quantizer;
}
/// HALO's FP6 (its released code): the largest value at 4/3 of the format's, saturating.
inline constexpr Quantizer halo_fp6{.element = &formats::e3m2, .divisor = formats::e3m2.max / 0.75f};

// ---- MX: blocks of 32 under a power of two (OCP MX v1.0).

enum class MxScale {
  floor,  ///< the specification's: 2^(floor(log2 amax) - emax); values above the largest one saturate
  ceil,   ///< the smallest that clips nothing (MXFP8 recipe, arXiv 2506.08027)
  even    ///< floor, but up where the largest value would round up to the next power of two
};
constexpr Quantizer mx(const ElementFormat& element, MxScale scale) {
  int largest_exponent = 0;  // of a normal number of the format
  while (ElementFormat::power_of_two(largest_exponent + 1) <= element.max) ++largest_exponent;
  const float power = ElementFormat::power_of_two(largest_exponent);
  // A mantissa from 2 - 2^-(bits + 1) on rounds up to 2; of fixed point the leading bit is one of its own.
  const int behind_leading = element.significant_bits() - 1;
  const float bump = 1 - ElementFormat::power_of_two(-behind_leading - 2);
  return {.element = &element,
          .scale = ScaleFormat::e8m0,
          .extent = Extent::block,
          .group = 32,
          .divisor = scale == MxScale::floor  ? power
                     : scale == MxScale::ceil ? element.max
                                              : power * bump,
          .round_up = scale == MxScale::ceil};
}

/// Three quarters of x never reach beyond 6, so that stochastic rounding clips nothing (Tseng et al., arXiv
/// 2502.20586).
constexpr Quantizer mxfp4_three_quarters(Rounding rounding, float gain = 1) {
  Quantizer quantizer = mx(formats::e2m1, MxScale::floor);
  quantizer.shrink = 0.75f;
  quantizer.rounding = rounding;
  quantizer.gain = gain;
  return quantizer;
}
/// 1 / E[<x, q> / <x, x>] on Gaussian values for rounding to nearest (Quartet's released code).
inline constexpr float mxfp4_alignment = 1.009276f;

// ---- QuEST (arXiv 2502.05003): the scale that has the smallest squared error on Gaussian values.

/// Where a symmetric grid of 2^bits levels ends, in standard deviations; [0] is not used.
inline constexpr double gaussian_clip[] = {0,
                                           0.7978845587140913,
                                           1.4935346200015913,
                                           2.051068354131873,
                                           2.513930578568423,
                                           2.9160938834961225,
                                           3.276597282593217,
                                           3.6010497188221655,
                                           3.884938678807525};
/// The same for the levels of E2M1.
inline constexpr float gaussian_clip_e2m1 = 2.92247856f;

/// b-bit integers, a scale for each row. The trust mask keeps what is within half a step of its level; with one bit it
/// is replaced by a clip at `one_bit_clip` times the outer level (1.30 behind a Hadamard transform, 1.25 without).
constexpr Quantizer quest(int bits, float one_bit_clip = 1.30f) {
  const double steps = (1 << bits) - 1, step = 2 * gaussian_clip[bits] / steps;
  return {.element = &formats::quest[bits - 1],
          .extent = Extent::row,
          .statistic = Statistic::root_mean_square,
          .divisor = static_cast<float>(1 / step),
          .epsilon = static_cast<float>(2e-8 / steps),  // 1e-8 of the clip
          .mask = bits == 1 ? MaskRule::clip : MaskRule::trust,
          .mask_width = bits == 1 ? 0.5f * one_bit_clip : 0.5f};
}
/// E2M1 levels under a row's root mean square; trusted up to half the outermost gap beyond the largest level.
inline constexpr Quantizer quest_fp4{.element = &formats::e2m1,
                                     .extent = Extent::row,
                                     .statistic = Statistic::root_mean_square,
                                     .divisor = 6 / gaussian_clip_e2m1,
                                     .epsilon = 1e-8f,
                                     .mask = MaskRule::trust,
                                     .mask_width = 1};
/// 4-bit weights of which two of four neighbouring pairs are kept.
constexpr Quantizer quest_int4_sparse() {
  Quantizer quantizer = quest(4);
  quantizer.sparsity = Sparsity::two_of_four_pairs;
  return quantizer;
}

enum class QuestScale { floor, nearest, exact };
/// Quartet's forward quantizer (arXiv 2505.14669): MXFP4 with QuEST's scale. `floor` is the released code's rule,
/// `nearest` rounds the exponent to nearest, `exact` keeps an f32 scale for each block.
constexpr Quantizer quartet(QuestScale scale) {
  constexpr float square_root_of_two = 1.41421356f;
  const float step = gaussian_clip_e2m1 / 6;
  return {.element = &formats::e2m1,
          .scale = scale == QuestScale::exact ? ScaleFormat::f32 : ScaleFormat::e8m0,
          .extent = Extent::block,
          .group = 32,
          .statistic = Statistic::standard_deviation,
          .divisor = 1 / (scale == QuestScale::nearest ? step * square_root_of_two : step),
          .epsilon = 1e-8f,
          .mask = MaskRule::clip,
          .mask_width = 6};
}

// ---- Steps that training learns: QuEST's levels, one scale for the tensor.

/// Elements beyond the outermost level pass no gradient on.
constexpr Quantizer learned(int bits, LearnedStep how) {
  const ElementFormat& element = formats::quest[bits - 1];
  return {.element = &element, .mask = MaskRule::clip, .mask_width = element.max, .learned = how};
}

// ---- NVFP4: blocks of 16 under an E4M3 scale under an f32 for the tensor.

inline constexpr Quantizer nvfp4{
    .element = &formats::e2m1, .scale = ScaleFormat::e4m3, .extent = Extent::block, .group = 16, .divisor = 6};
/// The scale that puts the largest value on 4 is half as large again, so that scales end at 256 (arXiv 2512.02010).
constexpr Quantizer four_over_six(Quantizer quantizer) {
  quantizer.choice = BlockChoice::four_over_six;
  quantizer.scale_limit = 256;
  return quantizer;
}
/// One scale for 16 x 16 weights, so that W and its transpose are quantized alike (NVIDIA, arXiv 2509.25149).
constexpr Quantizer square(Quantizer quantizer) {
  quantizer.extent = Extent::square;
  return quantizer;
}
/// E4M3 rounds a scale down by 16/17 at most: with so much room stochastic rounding clips nothing.
inline constexpr Quantizer nvfp4_stochastic{.element = &formats::e2m1,
                                            .scale = ScaleFormat::e4m3,
                                            .extent = Extent::block,
                                            .group = 16,
                                            .divisor = 6.0f / (17.0f / 16),
                                            .rounding = Rounding::stochastic};
/// The biased combination of the two, for comparisons: one value among zeros has the mean 65/64 of it.
constexpr Quantizer stochastic_four_over_six() { return four_over_six(nvfp4_stochastic); }
/// MS-EDEN (Quartet II, arXiv 2601.22813): rounded to nearest under scales that are corrected and rounded
/// stochastically. 0.93 was found to give the smallest error with E4M3 scales on Gaussian values.
constexpr Quantizer ms_eden(int correction_group) {
  return {.element = &formats::e2m1,
          .scale = ScaleFormat::e4m3,
          .extent = Extent::block,
          .group = 16,
          .divisor = 6.0f / (0.93f * 17 / 16),
          .scale_limit = 256,
          .correction_group = correction_group};
}
/// Integers in the place of E2M1.
inline constexpr Quantizer nvint4{
    .element = &formats::int4, .scale = ScaleFormat::e4m3, .extent = Extent::block, .group = 16, .divisor = 7};
/// NVFP4 with a choice between its grid and one shifted by a quarter (Grid Games, arXiv 2605.12327, as CloverLM's
/// public code has it); the flag stands in the sign bit of the scale.
constexpr Quantizer sfp4() {
  Quantizer quantizer = four_over_six(nvfp4);
  quantizer.choice = BlockChoice::shifted;
  return quantizer;
}

}  // namespace nibble::quantizers
