// Cross-entropy fused with the head, over chunks of tokens: the full fp32 logits are never stored, their gradient is
// in the operands' type, at most 256 MiB at a time.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// Turns a chunk of logits[tokens, vocabulary] (f32) into losses in nats, loss[t] = log sum exp(logits) -
/// logits[target], 0 where the target is -1; and, if dlogits is given (f32 or bf16; may be the logits themselves when
/// f32), into dlogits = (softmax - onehot) scale, zero rows where the target is -1.
void softmax_cross_entropy(Stream& stream, const Tensor& logits, std::span<const int32_t> targets, float scale,
                           std::span<float> losses, const Tensor& dlogits);

/// Logits exist for one chunk of tokens at a time, their gradient for a group of chunks.
class LossScratch {
 public:
  LossScratch() = default;
  /// `type` is that of the GEMM operands.
  LossScratch(Arena& arena, int64_t tokens, int64_t vocabulary, DType type, bool training);

  Tensor logits;   ///< [chunk, vocabulary] f32
  Tensor dlogits;  ///< [group, vocabulary] operand type; the logits themselves when that is f32
  Tensor losses;   ///< [1, tokens] f32
};

struct LossGradients {
  float scale = 0;  ///< of each token's loss: 1 / (tokens of the whole step that count)
  Tensor dx;        ///< [tokens, width], operand type
  Tensor dhead;     ///< [vocabulary, width] f32
};

/// The sum of the losses in nats (in double, in token order) of x[tokens, width] head[vocabulary, width]^T against
/// `targets` (-1: not counted); with `gradients`, those too.
double head_loss(Stream& stream, const Tensor& x, const Tensor& head, std::span<const int32_t> targets,
                 const LossScratch& scratch, const LossGradients* gradients);

}  // namespace nibble
