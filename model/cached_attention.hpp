// Attention of a few queries against cached keys and values: generation.
#pragma once

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// y[tokens, H hd] from q[tokens, H hd] (rotated) and the caches keys, values [capacity, KV hd], all of one type;
/// query t stands at first_position + t and sees the keys up to its own. scratch[threads, capacity + hd] (f32).
void cached_attention(Stream& stream, int64_t kv_heads, int64_t head_dim, int64_t first_position, const Tensor& q,
                      const Tensor& keys, const Tensor& values, const Tensor& scratch, const Tensor& y);

}  // namespace nibble
