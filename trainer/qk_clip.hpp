// QK-clip: heads of attention whose logits have grown too large get smaller query and key weights.
//
// Source: MuonClip in "Kimi K2: open agentic intelligence", arXiv 2507.20534. After the optimizer's update, each head
// whose largest logit S_h in the step's forward pass was above tau has its rows of W_q and W_k multiplied with
// sqrt(gamma_h), gamma_h = min(1, tau / S_h), so that its logits shrink by gamma_h. Where query heads share a key head
// (the paper has none that do), the key's rows are multiplied with sqrt(gamma) of the least gamma of its group, and
// each query head's with gamma_h over that: again each head's logits shrink by its own gamma_h, those of heads below
// tau stay as they are. Works beside every optimizer; moments are left alone. Not for: models with QK-norm, which
// undoes any scaling and bounds logits by itself.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/llama.hpp"
#include "trainer/sharded_weights.hpp"

namespace nibble {

/// What the rows of each query head, and behind them of each key head, are multiplied with. `max_logits`: by query
/// head.
std::vector<float> qk_clip_factors(std::span<const float> max_logits, int64_t kv_heads, double threshold);

/// Throws Error{configuration} for a model with QK-norm, unless `threshold` is 0.
void require_clippable(bool qk_norm, double threshold);

class QkClip {
 public:
  /// `threshold`: tau; 0: off. The arguments must outlive the object. Throws as require_clippable.
  QkClip(Stream& stream, const Llama& model, const ShardedWeights& weights, double threshold);

  /// Scales this rank's masters and their working copies; `publish` comes next. `max_logits`: by layer and head, the
  /// same on all ranks and finite. Returns the number of heads above the threshold.
  int64_t apply(std::span<const float> max_logits);

 private:
  /// The rows of a parameter's run that belong to these heads of its buffer.
  void scale(const OptimizedParameter& parameter, std::span<const float> factors);

  Stream& stream_;
  const Llama& model_;
  const ShardedWeights& weights_;
  double threshold_;
};

}  // namespace nibble
