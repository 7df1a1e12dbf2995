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

/// Collects pieces of a corpus of any size in bounded memory, then trains. Documents are cut into pieces of at most
/// 64 KiB, at line ends where there are any. The same documents in the same order give the same model, byte for byte.
class SentencePieceTraining {
 public:
  /// At most `most_bytes` are kept, of the pieces with the smallest hashes of their text: a sample that does not depend
  /// on the order, and is never empty. SentencePiece itself took 528 MB for 34 MB.
  explicit SentencePieceTraining(int64_t most_bytes = int64_t{100} << 20) : most_bytes_(most_bytes) {}

  /// Throws Error{data} with `where` when the text is not UTF-8.
  void add(std::string_view text, const std::string& where);

  /// The contents of the model file. Throws Error{data} when there was no text, Error{configuration} when the
  /// vocabulary is too small for bytes and characters or larger than the text supports.
  std::string train(int64_t vocabulary);

 private:
  struct Piece {
    uint64_t hash;
    int64_t number;  ///< in the order of the corpus
    std::string text;

    int64_t bytes() const { return static_cast<int64_t>(sizeof(Piece) + text.size()); }
  };
  void add_piece(std::string_view text);

  int64_t most_bytes_;
  int64_t bytes_ = 0, added_ = 0;
  uint64_t dropped_hash_ = UINT64_MAX;  ///< the smallest hash that was dropped
  std::vector<Piece> pieces_;           ///< a heap with the largest hash in front
};

}  // namespace nibble
