// Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467), forward and backward.
//
//   y = x r g,  r = 1 / sqrt(mean(x^2) + epsilon)
//
// x is the residual stream (f32), y a GEMM operand (f32 or bf16), g the gain (f32).
#pragma once

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// y[tokens, width] from x[tokens, width]; leaves r in inverse_rms[1, tokens] (f32).
void rms_norm_forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                      const Tensor& inverse_rms);

/// Rows of the scratch of rms_norm_backward.
int64_t rms_norm_scratch_rows(int64_t tokens);

/// Adds the gradient that flows through the normalisation to that of the residual stream:
///   dx += r (g dy - x r^2 mean(g dy x)),   dgain = sum over tokens of dy x r
/// dx[tokens, width] is f32; `dx_operand` (f32 or bf16) receives a copy of the sum, the operand of the GEMMs that
/// follow. dgain[1, width] and scratch[rms_norm_scratch_rows, width] are f32.
void rms_norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& inverse_rms,
                       const Tensor& dx, const Tensor& dx_operand, const Tensor& dgain, const Tensor& scratch);

}  // namespace nibble
