// Causal grouped-query attention in blocks with an online softmax: no T x T matrix exists.
//
// Forward and backward follow FlashAttention (Dao et al., arXiv 2205.14135; the row statistic is the log-sum-exp of
// FlashAttention-2, arXiv 2307.08691). Scores and softmax are fp32, GEMM operands have the type of q, k, v.
// Query head i reads key/value head floor(i / (heads / kv_heads)) (Ainslie et al., arXiv 2305.13245).
// Not for: attention against a cache of earlier keys (decoder.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

struct AttentionShape {
  int64_t sequences = 0;
  int64_t length = 0;  ///< T, tokens of one sequence
  int64_t heads = 0, kv_heads = 0, head_dim = 0;

  int64_t tokens() const { return sequences * length; }
  int64_t query_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }
};

/// Heads of more channels have no kernels on devices.
inline constexpr int64_t largest_device_head_dim = 128;

/// Scratch memory of both passes.
class AttentionScratch {
 public:
  AttentionScratch() = default;
  /// Takes its memory from `arena`, which is of the stream's place; `type` is that of the operands. Throws
  /// Error{configuration} for heads that its device has no kernels for.
  AttentionScratch(Arena& arena, const AttentionShape& shape, DType type, const Stream& stream, bool training);

  /// Of one thread of the host.
  struct Part {
    Tensor scores;         ///< [query block, key block] f32: s, then the gradient of the probabilities
    Tensor probabilities;  ///< [query block, key block] operand type
    Tensor output;         ///< [query block, hd] f32
    Tensor dscores;        ///< [group, query block, key block] operand type
    Tensor dkey, dvalue;   ///< [key block, hd] f32
  };
  const Part& part(int64_t thread) const { return parts_[static_cast<size_t>(thread)]; }
  const Tensor& delta() const { return delta_; }    ///< [H, tokens] f32
  const Tensor& dquery() const { return dquery_; }  ///< [tokens, H hd] f32, of the host

 private:
  std::vector<Part> parts_;
  Tensor delta_, dquery_;
};

/// y[tokens, H hd] from qkv[tokens, (H + 2 KV) hd] (queries, keys, values; rotated already), same type.
/// log_sum_exp[H, tokens] (f32) is left for the backward pass.
/// document_starts[tokens]: token t of a sequence attends to positions document_starts[t] .. t of it; empty: 0 .. t.
/// max_logits[H] are raised to the largest q k / sqrt(hd) of each head that the softmax sees; empty: not asked for.
void attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                       std::span<const int32_t> document_starts, const AttentionScratch& scratch, const Tensor& y,
                       const Tensor& log_sum_exp, std::span<float> max_logits = {});

/// dqkv[tokens, (H + 2 KV) hd] from dy[tokens, H hd] and what the forward pass read and left.
void attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& dy, const Tensor& qkv,
                        std::span<const int32_t> document_starts, const Tensor& y, const Tensor& log_sum_exp,
                        const AttentionScratch& scratch, const Tensor& dqkv);

}  // namespace nibble
