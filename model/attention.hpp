// Causal grouped-query attention in blocks with an online softmax: no T x T matrix exists.
//
// Forward and backward follow FlashAttention (Dao et al., arXiv 2205.14135; the row statistic is the log-sum-exp of
// FlashAttention-2, arXiv 2307.08691). Scores and softmax are fp32, GEMM operands have the type of q, k, v.
// Query head i reads key/value head floor(i / (heads / kv_heads)) (Ainslie et al., arXiv 2305.13245).
// Not for: attention against a cache of earlier keys (decoder.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <string>
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

/// Whose kernels compute attention on a device.
enum class AttentionBy : uint8_t { own, cudnn };

/// What AttentionBy::cudnn is here.
struct AttentionLibrary {
  std::string version;  ///< "9.19.0"; empty: there is none
  std::string missing;  ///< why
};
AttentionLibrary attention_library();

/// Scratch memory of both passes, and who computes them.
class AttentionScratch {
 public:
  AttentionScratch() = default;
  /// Takes its memory from `arena`, which is of the stream's place; `type` is that of the operands. The host has
  /// kernels of our own only. Throws Error{configuration} for heads and operands that a device has no kernels for, and
  /// for a library that is not there, and what model/cudnn/cudnn_attention.hpp says.
  AttentionScratch(Arena& arena, const AttentionShape& shape, DType type, const Stream& stream, bool training,
                   AttentionBy by = AttentionBy::own);

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
  bool by_library() const { return by_library_; }
  const Tensor& working() const { return working_; }  ///< bytes that the library works in

 private:
  std::vector<Part> parts_;
  Tensor delta_, dquery_, working_;
  bool by_library_ = false;
};

/// y[tokens, H hd] from qkv[tokens, (H + 2 KV) hd] (queries, keys, values; rotated already), same type.
/// log_sum_exp[H, tokens] (f32) is left for the backward pass.
/// document_starts[tokens]: token t of a sequence attends to positions document_starts[t] .. t of it; empty: 0 .. t.
/// max_logits[H] are raised to the largest q k / sqrt(hd) of each head that the softmax sees; empty: not asked for.
/// A library has its own order of log_sum_exp, sees 0 .. t whatever document_starts say, and raises no max_logits.
void attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                       std::span<const int32_t> document_starts, const AttentionScratch& scratch, const Tensor& y,
                       const Tensor& log_sum_exp, std::span<float> max_logits = {});

/// dqkv[tokens, (H + 2 KV) hd] from dy[tokens, H hd] and what the forward pass read and left.
void attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& dy, const Tensor& qkv,
                        std::span<const int32_t> document_starts, const Tensor& y, const Tensor& log_sum_exp,
                        const AttentionScratch& scratch, const Tensor& dqkv);

}  // namespace nibble
