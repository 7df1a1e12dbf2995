// Trains a SentencePiece model with Llama 2's conventions.
//
// BPE with byte fallback, unk 0, bos 1, eos 2, bytes 3..258; digits split, white space kept, no Unicode normalisation.
// Not for: using a model (tokenizer.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

/// Collects lines of a corpus of any size in bounded memory, then trains. The same documents in the same order give the
/// same model, byte for byte.
class SentencePieceTraining {
 public:
  /// `most_bytes` of text are kept: when there are more, half of the documents are dropped by the hash of their text,
  /// as often as needed. SentencePiece itself took 528 MB for 34 MB.
  explicit SentencePieceTraining(int64_t most_bytes = int64_t{100} << 20) : most_bytes_(most_bytes) {}

  /// Throws Error{data} with `where` when the text is not UTF-8.
  void add(std::string_view text, const std::string& where);
  int64_t documents_kept() const { return static_cast<int64_t>(documents_.size()); }

  /// The contents of the model file. Throws Error{data} when there was no text, Error{configuration} when the
  /// vocabulary is too small for bytes and characters or larger than the text supports.
  std::string train(int64_t vocabulary);

 private:
  struct Kept {
    uint64_t hash;
    std::string text;
  };
  int64_t most_bytes_;
  int halvings_ = 0;
  int64_t bytes_ = 0;
  std::vector<Kept> documents_;
};

}  // namespace nibble
