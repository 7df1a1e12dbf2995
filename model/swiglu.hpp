// The gated activation of Llama's feed-forward (Shazeer, arXiv 2002.05202): y = silu(gate) up.
#pragma once

#include "quant/quantize.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// y[tokens, ffn] from gate_up[tokens, 2 ffn] (gate first), both f32 or both bf16; arithmetic in fp32.
void swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& y);

/// The same, and the largest magnitude in y, as rms_norm_with_largest: 6 bytes an element of bf16, in two calls 8.
Scalar swiglu_with_largest(Stream& stream, const Tensor& gate_up, const Tensor& y);

/// swiglu_forward and quantize() of y along its columns, with the bits of these calls. y is written if `keeps_y`, and
/// may be if not. On a device this is one kernel where blocks and rotations fit a block's memory and the quantizer
/// rounds to nearest under scales that nothing corrects. Of bf16, memory then moves 4 bytes an element and what
/// quantize() writes, and 2 more if y is kept; in two calls 8 and that. Rows under scales of their own that do not fit
/// are read twice either way.
Operand swiglu_quantize(Stream& stream, const Tensor& gate_up, const Tensor& y, bool keeps_y,
                        const QuantizeArguments& arguments);

/// dgate_up[tokens, 2 ffn] from dy[tokens, ffn] and the forward's gate_up. dgate_up may be gate_up itself.
void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& dgate_up);

}  // namespace nibble
