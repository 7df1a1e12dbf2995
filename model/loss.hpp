// Cross-entropy fused with the head, over chunks of tokens: the full fp32 logits are never stored, their gradient is
// in the operands' type, at most 256 MiB at a time. With z-loss where asked.
//
// Not for: what a loss is divided by (llama.hpp), or losses of evaluation, which are plain (trainer/evaluation.hpp).
#pragma once

#include <cstdint>
#include <span>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// What the gradient of a token's logits is of: (loss + z lse^2) scale, where lse = log sum exp(logits). The second
/// term is z-loss, which keeps lse near 0 and so logits from drifting together (Chowdhery et al., "PaLM", arXiv
/// 2204.02311, with z = 1e-4).
struct TokenObjective {
  float scale = 0;  ///< 1 / (tokens of the whole step that count)
  float z = 0;
};

/// Turns a chunk of logits[tokens, vocabulary] (f32) into losses in nats, loss[t] = lse - logits[target], and into
/// log_sum_exps[t] = lse, both 0 where the target is -1; and, if dlogits is given (f32 or bf16; may be the logits
/// themselves when f32), into dlogits = (softmax (1 + 2 z lse) - onehot) scale, zero rows where the target is -1.
void softmax_cross_entropy(Stream& stream, const Tensor& logits, std::span<const int32_t> targets,
                           const TokenObjective& objective, std::span<float> losses, std::span<float> log_sum_exps,
                           const Tensor& dlogits);

/// Logits exist for one chunk of tokens at a time, their gradient for a group of chunks.
class LossScratch {
 public:
  LossScratch() = default;
  /// `type` is that of the GEMM operands.
  LossScratch(Arena& arena, int64_t tokens, int64_t vocabulary, DType type, bool training);

  Tensor logits;   ///< [chunk, vocabulary] f32
  Tensor dlogits;  ///< [group, vocabulary] operand type; the logits themselves when that is f32
  Tensor losses;   ///< [2, tokens] f32, left by head_loss: cross-entropies, and log sum exp of the logits
};

struct LossGradients {
  TokenObjective objective;
  Tensor dx;     ///< [tokens, width], operand type
  Tensor dhead;  ///< [vocabulary, width] f32
};

/// Of x[tokens, width] head[vocabulary, width]^T against `targets` (-1: not counted): leaves the tokens' losses in the
/// scratch memory, and, if asked for, gradients.
void head_loss(Stream& stream, const Tensor& x, const Tensor& head, std::span<const int32_t> targets,
               const LossScratch& scratch, const LossGradients* gradients);

/// The cross-entropies (nats) that head_loss left for the first losses.size() tokens; waits for the stream.
void token_losses(Stream& stream, const LossScratch& scratch, std::span<float> losses);

/// Over the tokens that count, in double, in token order.
struct LossSums {
  double cross_entropy = 0;        ///< nats
  double squared_log_sum_exp = 0;  ///< what z-loss multiplies
};

/// The sums of what head_loss left for the first `tokens`; waits for the stream. It stands apart from head_loss so that
/// a device need not wait between the passes.
LossSums loss_sums(Stream& stream, const LossScratch& scratch, int64_t tokens);

}  // namespace nibble
