// What stands in a SentencePiece model file: its pieces with scores and types, and how it treats text.
//
// SentencePiece's own interface tells neither types nor treatment, and other programs' files need both.
// Format: sentencepiece_model.proto of google/sentencepiece. Not for: tokenizing (tokenizer.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct SentencePieceModel {
  /// ModelProto.SentencePiece.Type
  enum Type : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    int32_t type = normal;
  };

  std::vector<Piece> pieces;
  bool is_bpe = false;               ///< merges by score; else another algorithm, such as Unigram
  bool normalizes = false;           ///< characters are replaced by others (NFKC ...)
  bool removes_extra_spaces = true;  ///< at the ends, and of several in a row
  bool adds_leading_space = true;
};

/// Throws Error{data} for bytes that are no such model.
SentencePieceModel parse_sentencepiece_model(std::string_view model);

}  // namespace nibble
