// Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467), forward and backward.
//
//   y = x r g,  r = 1 / sqrt(mean(x^2) + epsilon)
//
// Of the residual stream, x is f32, y a GEMM operand (f32 or bf16), g the gain (f32). Of query and key heads before
// RoPE (QK-norm as transformers' Qwen3Attention has it: it bounds attention's logits), x and y are GEMM operands, the
// mean is over the channels of a head, and all heads of one kind share a gain. Devices have a largest width, 16384,
// and head_dim, 4096; more is an Error{configuration} there.
#pragma once

#include "quant/quantize.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// dgain is summed within blocks of this many tokens, then over blocks in order: independent of the threads.
inline constexpr int64_t rms_norm_block_tokens = 32;

/// y[tokens, width] from x[tokens, width]; leaves r in inverse_rms[1, tokens] (f32).
void rms_norm_forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                      const Tensor& inverse_rms);

/// The same, and the largest magnitude in y: its tensor_statistic without a rotation, NaN where an element is. A device
/// finds it as it writes y: memory moves 6 bytes an element of a bf16 y, in two calls 8.
Scalar rms_norm_with_largest(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                             const Tensor& inverse_rms);

/// rms_norm_forward and quantize() of y along its columns, with the bits of these calls. y is written if `keeps_y`, and
/// may be if not. On a device this is one kernel where whole rows fit a block's memory and the quantizer rounds to
/// nearest under scales that nothing corrects. Memory then moves 4 bytes an element and what quantize() writes, and 2
/// more if a bf16 y is kept; in two calls 8 and that.
Operand rms_norm_quantize(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                          const Tensor& inverse_rms, bool keeps_y, const QuantizeArguments& arguments);

/// Rows of the scratch of rms_norm_backward.
int64_t rms_norm_scratch_rows(int64_t tokens);

/// Adds the gradient that flows through the normalisation to that of the residual stream:
///   dx += r (g dy - x r^2 mean(g dy x)),   dgain = sum over tokens of dy x r
/// dx[tokens, width] is f32; `dx_operand` (f32 or bf16) receives a copy of the sum, the operand of the GEMMs that
/// follow. dgain[1, width] and scratch[rms_norm_scratch_rows, width] are f32.
void rms_norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& inverse_rms,
                       const Tensor& dx, const Tensor& dx_operand, const Tensor& dgain, const Tensor& scratch);

/// What the backward pass of heads reads.
struct HeadNormSaved {
  Tensor input;        ///< [tokens, heads hd], as it was, in the type of the operands
  Tensor inverse_rms;  ///< [tokens, heads] f32
};

/// Normalises x[tokens, heads hd] in place; gain[1, hd]. `saved` may be null.
void head_norm_forward(Stream& stream, const Tensor& gain, float epsilon, const Tensor& x, const HeadNormSaved* saved);

/// Turns the gradient dx[tokens, heads hd] of the output in place into that of the input:
///   dx = r (g dy - x r^2 mean(g dy x)),   dgain = sum over tokens and heads of dy x r
/// dgain[1, hd] and scratch[rms_norm_scratch_rows, hd] are f32.
void head_norm_backward(Stream& stream, const Tensor& gain, const HeadNormSaved& saved, const Tensor& dx,
                        const Tensor& dgain, const Tensor& scratch);

}  // namespace nibble
