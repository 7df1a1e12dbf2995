// Windows of tokens in a deterministic order: which window is the s-th of a run is a pure function of (seed, s).
//
// So the loader has no state: a run that resumes goes on at the sample number that its checkpoint recorded.
// Not for: reading ahead (prefetcher.hpp) and not for files (token_data.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/token_data.hpp"
#include "data/window_source.hpp"

namespace nibble {

enum class Packing {
  stream,     ///< all documents behind each other, cut every `sequence` tokens: pre-training
  documents,  ///< documents side by side in a window, padded; attention stays within documents: fine-tuning. Longer
              ///< ones are cut every `sequence` tokens, and the pieces know nothing of each other.
};

struct LoaderOptions {
  int64_t sequence = 0;  ///< tokens in a window
  Packing packing = Packing::stream;
  bool mask_documents =
      false;          ///< stream: attention stays within documents, and no loss where one document's last token
                      ///< would have to predict the next one's first. Always so with Packing::documents.
  uint64_t seed = 0;  ///< of the order
};

class Loader : public WindowSource {
 public:
  /// `data` must outlive the loader. Throws Error{data} when it does not fill one window (stream) or holds nothing to
  /// predict (documents), Error{configuration} when the sequence is not positive.
  Loader(const TokenData& data, const LoaderOptions& options);

  int64_t sequence() const override { return options_.sequence; }
  std::string name() const override { return data_.path(); }
  int64_t windows_per_epoch() const { return windows_; }
  int64_t tokens_per_epoch() const override { return windows_ * options_.sequence; }
  /// Tokens at the end that do not fill a window and are not trained on (stream only).
  int64_t dropped_tokens() const;
  /// Positions that hold no token because no document fits there (documents only).
  int64_t padding_tokens() const;
  /// Documents that do not fit into a window; after a cut in a prompt a piece may hold nothing to learn (documents
  /// only).
  int64_t cut_documents() const { return cut_documents_; }
  /// One line: windows and tokens of an epoch, what is dropped, padded or cut.
  std::string describe() const override;

  /// Which window is sample s: every window comes once in samples [e W, (e + 1) W) of epoch e, in an order of its own.
  int64_t window_of_sample(int64_t sample) const;
  Batch batch(int64_t first_sample, int64_t count) const override;

  /// Evaluation runs over the file in order and predicts every token once: the tail makes a last, padded window.
  int64_t evaluation_windows(int64_t max_tokens = 0) const override;
  Batch evaluation_batch(int64_t first, int64_t count) const override;
  /// Those of whole documents, and of one that is scored in part the same part; of packed documents only of all.
  std::optional<double> evaluation_bytes(int64_t windows) const override;

 private:
  /// A run of inputs [first_token, first_token + length) in one window.
  struct Piece {
    int64_t first_token = 0;
    int32_t length = 0;
    int32_t position = 0;  ///< in the window
  };

  void pack_documents();
  /// Inputs [first_token, first_token + length) and their targets at element `at` of the batch.
  void fill_run(int64_t first_token, int64_t length, int64_t at, Batch& batch) const;
  void fill_stream(int64_t window, int64_t row, Batch& batch) const;
  void fill_documents(int64_t window, int64_t row, Batch& batch) const;
  Batch fill(const std::vector<int64_t>& windows) const;

  const TokenData& data_;
  LoaderOptions options_;
  int64_t windows_ = 0, cut_documents_ = 0;
  std::vector<Piece> pieces_;          // documents: grouped by window
  std::vector<int64_t> first_pieces_;  // documents: window w holds pieces [first_pieces_[w], first_pieces_[w + 1])
};

}  // namespace nibble
