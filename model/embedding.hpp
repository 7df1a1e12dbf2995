// Token embedding: a gather forward, a deterministic scatter-add backward.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// x[tokens, width] (f32) = the rows of table[vocabulary, width] (f32 or bf16) that `ids` name; 0 <= id < vocabulary.
void embedding_forward(Stream& stream, std::span<const int32_t> ids, const Tensor& table, const Tensor& x);

/// dtable[ids[t]] += dx[t] for t in order (both f32): the sum's order does not depend on the threads, each of which
/// takes a range of columns.
void embedding_backward(Stream& stream, std::span<const int32_t> ids, const Tensor& dx, const Tensor& dtable);

}  // namespace nibble
