// The field's quantizers, one block after the other, one element after the other: what quant/ is compared with.
//
// Formulas: the reference on quantization, sections 1 to 5 and 7. Scales and quotients are float, as codes depend on
// their rounding; statistics are double. Not for: speed, non-finite input, rotations (reference_rotation.hpp).
#pragma once

#include <span>

#include "tests/quant/reference_matrix.hpp"

namespace nibble::reference {

/// scale = factor * amax / largest, 1 where that is zero; per tensor, row or block. HALO's FP6 is e3m2 with factor
/// 0.75.
ReferenceQuantized quantize_absmax(const Matrix& x, const Element& element, Extent extent, float factor = 1);

/// How an MX scale's exponent follows from a block's amax (section 1.2).
enum class ExponentRule { floor, ceil, even };

/// Blocks of 32 with a power-of-two scale, from 2^-127 to 2^127.
struct MxQuantizer {
  Element element = e2m1;
  ExponentRule rule = ExponentRule::floor;
  float shrink = 1;                      ///< 0.75 with floor: nothing clips
  float compensation = 1;                ///< the result's tensor scale: 4/3 with 0.75, and 1.009276 times that for PMA
  std::span<const float> uniforms = {};  ///< stochastic rounding, one for each element; empty: nearest
};
ReferenceQuantized quantize_mx(const Matrix& x, const MxQuantizer& quantizer);
int mx_exponent(float amax, const Element& element, ExponentRule rule);

/// An E4M3 scale for each block under a float scale of the tensor (section 1.3), with a choice among several grids.
struct NvQuantizer {
  Element element = e2m1;
  Extent extent{1, 16};
  float largest_scale = 448;                     ///< M8; 256 leaves room for 1.5 times the scale
  float scale_override = 1;                      ///< ov; 17/16: head-room for stochastic rounding
  bool four_over_six = false;                    ///< choice 0: amax on 6; 1: on 4, if its squared error is smaller
  std::vector<float> shifts = {};                ///< four-over-six on moved grids too: choices 2 and 3 for the first...
  std::span<const float> uniforms = {};          ///< stochastic rounding, one for each element; empty: nearest
  std::span<const float> uniforms_of_four = {};  ///< other ones for choice 1; empty: the same
};
/// On a shifted grid value = (value(code) + shift) * scale * tensor_scale.
ReferenceQuantized quantize_nv(const Matrix& x, const NvQuantizer& quantizer);

/// MS-EDEN of rotated data (section 3.2). One uniform for each 16; `group` elements, 16, 32 or 128, share a correction,
/// whose sums run over the scaled values, as in the authors' code: with 32 and 128 not quite <z, z> / <z, q>.
ReferenceQuantized quantize_ms_eden(const Matrix& rotated, int64_t group, std::span<const float> uniforms,
                                    float largest_scale = 256);

/// How the exponent of QuEST's MXFP4 scale follows from the ideal scale; exact is that scale itself.
enum class DeviationRule { floor, nearest, exact };
/// Scale from the population deviation of each 32 (section 2); the mask passes |x / scale| < 6.
ReferenceQuantized quantize_quest_mxfp4(const Matrix& x, DeviationRule rule);

/// QuEST's integers of 1 to 8 bits (section 4): each row's step, the scale, follows from its root mean square.
/// The mask passes |x| <= clip * alpha * rms; 0 stands for the trust mask, half a step beyond the outermost level.
ReferenceQuantized quantize_quest_integer(const Matrix& x, int bits, float clip = 0);
/// E2M1 levels at each row's root mean square, trusted up to 7 scales: half the top gap beyond 6.
ReferenceQuantized quantize_quest_e2m1(const Matrix& x);
/// 4 bits; of each four neighbouring pairs the two of larger norm, before rounding, stay. The others: value 0, code 0.
ReferenceQuantized quantize_quest_sparse(const Matrix& x);

}  // namespace nibble::reference
