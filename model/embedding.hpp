// Token embedding: a gather forward, a deterministic scatter-add backward.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// x[tokens, width] (f32) = the rows of table[vocabulary, width] (f32 or bf16) that `ids` name; 0 <= id < vocabulary.
void embedding_forward(Stream& stream, std::span<const int32_t> ids, const Tensor& table, const Tensor& x);

/// Scratch memory of embedding_backward, of a device only: there the tokens are sorted by their ids, stably.
class EmbeddingScratch {
 public:
  /// Tokens that are counted and placed together, and values of the digit that they are sorted by in each pass.
  static constexpr int64_t tile = 512, digits = 512;

  EmbeddingScratch() = default;
  /// Takes its memory from `arena`.
  EmbeddingScratch(Arena& arena, int64_t tokens);

  Tensor ids;     ///< [2, tokens] i32: as sorted so far, by the last pass and the one before
  Tensor tokens;  ///< [2, tokens] i32: whose they are
  Tensor counts;  ///< [tiles, digits] i32
};

/// dtable[ids[t]] += dx[t] for t in order (both f32): the sum's order does not depend on the threads, each of which
/// takes a range of columns. `scratch` is of dx.rows tokens at least.
void embedding_backward(Stream& stream, std::span<const int32_t> ids, const Tensor& dx, const EmbeddingScratch& scratch,
                        const Tensor& dtable);

}  // namespace nibble
