// Byte-level BPE from Hugging Face's tokenizer.json: GPT-2's, Llama 3's, Qwen's. Ids are those of the `tokenizers`
// package.
//
// Not for: reading the JSON (tokenizer_json.hpp), and not for training such a tokenizer.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/split_pattern.hpp"
#include "data/tokenizer.hpp"
#include "data/tokenizer_json.hpp"

namespace nibble {

class ByteLevelTokenizer final : public Tokenizer {
 public:
  /// `files`: tokenizer.json, and of tokenizer_config.json and special_tokens_map.json those that lie beside it, which
  /// name EOS and PAD; BOS is what the template of tokenizer.json puts before a text. `name` stands in the identity.
  /// Throws Error{data} as parse_tokenizer_json does, and for a special token that is not in the vocabulary.
  ByteLevelTokenizer(std::vector<TokenizerFile> files, const std::string& name);

  using Tokenizer::encode;
  /// Added tokens are found in the text, special ones too, as the package does it.
  void encode(std::string_view text, std::vector<int32_t>& ids) const override;

  /// As the file has it, for other formats to write.
  const TokenizerJson& definition() const { return json_; }

 private:
  struct ViewHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Split {
    SplitPattern pattern;
    bool keeps_gaps;
  };

  void set_special_tokens(const std::string& name);
  uint64_t hash() const;
  void find_whole_pieces();
  int32_t id_of(const std::string& content) const;
  void encode_given(std::string_view text, std::vector<int32_t>& ids, BytePairMerges::Scratch& scratch) const;
  void encode_normalized(std::string_view text, std::vector<int32_t>& ids, BytePairMerges::Scratch& scratch) const;
  void cut(std::string_view piece, size_t split, std::vector<int32_t>& ids, BytePairMerges::Scratch& scratch) const;
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids, BytePairMerges::Scratch& scratch) const;

  TokenizerJson json_;
  std::vector<Split> splits_;
  AddedTokenFinder added_, added_normalized_;
  BytePairMerges merges_;
  int32_t byte_ids_[256] = {};
  /// Pieces that become one token: most words of a text, which need no merging.
  std::unordered_map<std::string, int32_t, ViewHash, std::equal_to<>> whole_pieces_;
};

}  // namespace nibble
