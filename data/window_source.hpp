// Where a run's windows of tokens come from: files (loader.hpp), or a language that is made up (synthetic_windows.hpp).
//
// A source has no state: the windows of a sample are a pure function of its number, so a run that resumes goes on at
// the sample that its checkpoint recorded. Not for: reading ahead (prefetcher.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nibble {

/// `sequences` windows of `length` tokens, row-major.
struct Batch {
  int64_t sequences = 0, length = 0;
  std::vector<int32_t> inputs;           ///< [sequences, length]
  std::vector<int32_t> targets;          ///< [sequences, length]; -1: no loss here
  std::vector<int32_t> document_starts;  ///< [sequences, length]: position in the window at which the token's document
                                         ///< begins, the first that it attends to; 0 where attention crosses documents
  int64_t loss_tokens = 0;               ///< targets that are not -1
  /// Of an evaluation's batch, what its source itself would lose on these targets, in nats; empty where nobody knows.
  std::optional<double> source_loss{};
};

class WindowSource {
 public:
  virtual ~WindowSource() = default;

  /// Tokens in a window.
  virtual int64_t sequence() const = 0;
  /// What messages call it: a file's path.
  virtual std::string name() const = 0;
  /// One line: what an epoch holds.
  virtual std::string describe() const = 0;
  /// Positions of all windows, padding included; 0 where no window ever comes again.
  virtual int64_t tokens_per_epoch() const = 0;

  /// Windows of samples [first_sample, first_sample + count). Safe in several threads.
  virtual Batch batch(int64_t first_sample, int64_t count) const = 0;

  /// How many windows an evaluation has that ends when it has predicted `max_tokens` tokens (0: all).
  virtual int64_t evaluation_windows(int64_t max_tokens = 0) const = 0;
  /// Windows [first, first + count) of those, always the same; fewer at the end.
  virtual Batch evaluation_batch(int64_t first, int64_t count) const = 0;
  /// UTF-8 bytes of the text behind the first `windows` of them; empty where that is not known.
  virtual std::optional<double> evaluation_bytes(int64_t windows) const = 0;
};

}  // namespace nibble
