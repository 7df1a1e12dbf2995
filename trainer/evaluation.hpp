// The loss of a model on a file of tokens, every token predicted once, or on a synthetic language.
#pragma once

#include <optional>

#include "comm/world.hpp"
#include "data/window_source.hpp"
#include "model/llama.hpp"

namespace nibble {

struct Evaluation {
  double loss_sum = 0;  ///< nats
  int64_t tokens = 0;   ///< predicted; BOS of a document is, after the document before it
  /// UTF-8 bytes of the text behind these tokens: those of whole documents, and of one that was scored in part the same
  /// part. Bits per byte is loss_sum / (bytes ln 2). Empty where the file does not tell, or when only a part of packed
  /// documents was scored.
  std::optional<double> bytes;
  /// What the source of the tokens would lose on them, in nats; known of a synthetic language.
  std::optional<double> source_loss_sum;

  double loss() const { return loss_sum / static_cast<double>(tokens); }
  double perplexity() const;
  /// How far the loss is above what the source itself loses on the same tokens: an estimate of their divergence that is
  /// unbiased, and less noisy than the distance to the source's entropy, as luck with the tokens falls out.
  std::optional<double> gap() const;
  std::optional<double> bits_per_byte() const;
};

/// Runs over `source`'s evaluation windows in order: as many as hold `max_tokens` tokens (0: all).
/// The source's sequence is the model's. The ranks take the micro-batches in turn; their losses are added in order, so
/// all have the same result, that of one rank. `step` chooses the recipes (Llama::loss). `progress` (if given) is told
/// the windows done and their number.
Evaluation evaluate(Llama& model, const ParameterSet& weights, const WindowSource& source, int64_t max_tokens,
                    World& world, const std::function<void(int64_t done, int64_t of)>& progress = {},
                    int64_t step = last_step);

}  // namespace nibble
