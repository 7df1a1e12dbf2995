// Hugging Face's tokenizer.json: what Nibble reads of it, a byte-level BPE such as GPT-2's, Llama 3's or Qwen's.
//
// Everything in the file that changes ids is either read or refused by its key. Not for: encoding
// (byte_level_tokenizer.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/added_tokens.hpp"
#include "data/byte_pair_merges.hpp"

namespace nibble {

/// A regular expression that cuts text. What lies between its matches is a piece, too, or dropped.
struct TokenizerSplit {
  std::string expression;
  bool keeps_gaps = true;

  bool operator==(const TokenizerSplit&) const = default;
};

struct TokenizerJson {
  std::vector<std::string> tokens;            ///< by id, in the file's spelling; empty: no token has the id
  std::vector<BytePairMerges::Merge> merges;  ///< by rank
  bool ignore_merges = false;                 ///< a piece that is a token is that token, whatever the merges say
  bool nfc = false;                           ///< text is normalized first
  std::vector<TokenizerSplit> splits;         ///< one after the other, each within the pieces of the one before
  std::vector<AddedToken> added;
  std::optional<int32_t> before, after;  ///< what the file's template puts around a text
};

/// GPT-2's expression, which a ByteLevel without another one stands for.
extern const char* const gpt2_expression;

/// Throws Error{data} with the key: not JSON, another kind of tokenizer (SentencePiece's, WordPiece, Unigram), a
/// normalizer or pre-tokenizer that is not read, a vocabulary without all 256 bytes, merges of tokens that are not
/// there.
TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& where);

}  // namespace nibble
