// The gated activation of Llama's feed-forward (Shazeer, arXiv 2002.05202): y = silu(gate) up.
#pragma once

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// y[tokens, ffn] from gate_up[tokens, 2 ffn] (gate first), both f32 or both bf16; arithmetic in fp32.
void swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& y);

/// dgate_up[tokens, 2 ffn] from dy[tokens, ffn] and the forward's gate_up. dgate_up may be gate_up itself.
void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& dgate_up);

}  // namespace nibble
