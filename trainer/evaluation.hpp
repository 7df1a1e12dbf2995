// The loss of a model on a file of tokens, every token predicted once.
#pragma once

#include <optional>

#include "comm/world.hpp"
#include "data/loader.hpp"
#include "model/llama.hpp"

namespace nibble {

struct Evaluation {
  double loss_sum = 0;  ///< nats
  int64_t tokens = 0;   ///< predicted; BOS of a document is, after the document before it
  /// UTF-8 bytes of the text behind these tokens: those of whole documents, and of one that was scored in part the same
  /// part. Bits per byte is loss_sum / (bytes ln 2). Empty where the file does not tell, or when only a part of packed
  /// documents was scored.
  std::optional<double> bytes;

  double loss() const { return loss_sum / static_cast<double>(tokens); }
  double perplexity() const;
  std::optional<double> bits_per_byte() const;
};

/// Runs over `loader`'s evaluation windows in order: as many as hold `max_tokens` tokens (0: all).
/// The loader's sequence is the model's. The ranks take the micro-batches in turn; their losses are added in order, so
/// all have the same result, that of one rank. `step` chooses the recipes (Llama::loss). `progress` (if given) is told
/// the windows done and their number.
Evaluation evaluate(Llama& model, const ParameterSet& weights, const Loader& loader, int64_t max_tokens, World& world,
                    const std::function<void(int64_t done, int64_t of)>& progress = {}, int64_t step = last_step);

}  // namespace nibble
