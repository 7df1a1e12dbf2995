// Endless windows of a synthetic language: each is a pure function of (seed, number), and begins anew.
//
// Training and evaluation draw from streams of random numbers that are never the same.
// Not for: the language's probabilities (synthetic_language.hpp).
#pragma once

#include "data/synthetic_language.hpp"
#include "data/window_source.hpp"

namespace nibble {

class SyntheticWindows : public WindowSource {
 public:
  /// Tokens of an evaluation that is given no limit: what 2^16 have lost differs from what all would by 0.01 nats, but
  /// the gap to what the source loses on the same tokens by far less.
  static constexpr int64_t default_evaluation_tokens = int64_t{1} << 16;

  /// Windows to train on are drawn by `seed`, those of evaluations by the language's own: runs of other seeds learn the
  /// same language and are judged by the same tokens. Throws Error{configuration} when `sequence` is not positive.
  SyntheticWindows(const SyntheticOptions& language, int64_t sequence, uint64_t seed);

  const SyntheticLanguage& language() const { return language_; }

  int64_t sequence() const override { return sequence_; }
  std::string name() const override { return "synthetic language"; }
  std::string describe() const override;
  int64_t tokens_per_epoch() const override { return 0; }
  Batch batch(int64_t first_sample, int64_t count) const override;
  int64_t evaluation_windows(int64_t max_tokens = 0) const override;
  /// With source_loss.
  Batch evaluation_batch(int64_t first, int64_t count) const override;
  std::optional<double> evaluation_bytes(int64_t) const override { return std::nullopt; }

 private:
  enum class Use { training, evaluation };
  Batch draw(Use use, int64_t first, int64_t count) const;

  SyntheticLanguage language_;
  int64_t sequence_;
  uint64_t seed_;
};

}  // namespace nibble
