// Attention by cuDNN: graphs of its fused attention and of the gradients, built for a shape and kept by the stream.
//
// Exists only in programs that are built with cuDNN's frontend (CMakeLists.txt), and then as a whole; else all of it is
// null. Operands are bf16, rows have the strides that arenas give them, and heads are multiples of 8 channels. What a
// call works in is asked for beforehand, and a call takes no memory, so that it may be part of a CUDA graph
// (tensor/cuda/graph.hpp). The backward pass gives the same bits every time. Not for: documents that attention must not
// cross, the largest logits (attention.hpp has both).
#pragma once

#include <cstddef>
#include <string>

#include "model/attention.hpp"

namespace nibble::cuda {

/// Why this program does not find the library on this machine; empty: it does.
[[gnu::weak]] std::string why_no_cudnn();
/// "9.19.0". Where it is found, as all that follows.
[[gnu::weak]] std::string cudnn_version();

/// Bytes that a call works in: a forward pass, and where the model is `training` a backward pass. Builds the graphs of
/// the shape, the first time. Throws Error{resource} with cuDNN's own words where it has none for the stream's device.
[[gnu::weak]] size_t cudnn_attention_bytes(const Stream& stream, const AttentionShape& shape, bool training);

/// As attention_forward(); log_sum_exp's memory then holds [sequences, H, T], without gaps. `working` has the bytes
/// above. Throws Error{resource} where cuDNN fails.
[[gnu::weak]] void cudnn_attention_forward(const Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                                           const Tensor& working, const Tensor& y, const Tensor& log_sum_exp);

/// As attention_backward(), with log_sum_exp as the forward pass left it.
[[gnu::weak]] void cudnn_attention_backward(const Stream& stream, const AttentionShape& shape, const Tensor& dy,
                                            const Tensor& qkv, const Tensor& y, const Tensor& log_sum_exp,
                                            const Tensor& working, const Tensor& dqkv);

}  // namespace nibble::cuda
