// This folder's kernels on devices: same names, same contracts, device memory.
#pragma once

#include "model/attention.hpp"
#include "model/embedding.hpp"
#include "model/loss.hpp"
#include "model/norm.hpp"
#include "model/rope.hpp"
#include "model/swiglu.hpp"

namespace nibble::cuda {

[[gnu::weak]] decltype(nibble::attention_forward) attention_forward;
[[gnu::weak]] decltype(nibble::attention_backward) attention_backward;

[[gnu::weak]] decltype(nibble::embedding_forward) embedding_forward;
[[gnu::weak]] decltype(nibble::embedding_backward) embedding_backward;

[[gnu::weak]] decltype(nibble::softmax_cross_entropy) softmax_cross_entropy;

[[gnu::weak]] decltype(nibble::rms_norm_forward) rms_norm_forward;
[[gnu::weak]] decltype(nibble::rms_norm_backward) rms_norm_backward;
[[gnu::weak]] decltype(nibble::rms_norm_with_largest) rms_norm_with_largest;
[[gnu::weak]] decltype(nibble::rms_norm_quantize) rms_norm_quantize;
[[gnu::weak]] decltype(nibble::head_norm_forward) head_norm_forward;
[[gnu::weak]] decltype(nibble::head_norm_backward) head_norm_backward;

[[gnu::weak]] decltype(nibble::rope) rope;

[[gnu::weak]] decltype(nibble::swiglu_forward) swiglu_forward;
[[gnu::weak]] decltype(nibble::swiglu_with_largest) swiglu_with_largest;
[[gnu::weak]] decltype(nibble::swiglu_quantize) swiglu_quantize;
[[gnu::weak]] decltype(nibble::swiglu_backward) swiglu_backward;

}  // namespace nibble::cuda
