// Token ids on disk, mapped into memory: Nibble's own shards and llm.c's `.bin` files, told apart by content.
//
// Nothing is read from a shard before its length and checksum were verified, and HDF5 opens only what was.
// Not for: windows, shuffling and batches (loader.hpp); writing shards (shard_writer.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/tokenizer.hpp"
#include "tensor/files.hpp"

namespace nibble {

class TokenData {
 public:
  /// Opens and verifies a file. Throws Error{data}: missing, another kind of file (it says which), truncated, damaged,
  /// of a newer schema, or with token ids or special ids outside its vocabulary.
  static TokenData open(const std::string& path);
  TokenData(TokenData&&) = default;
  TokenData& operator=(TokenData&&) = default;

  const std::string& path() const { return path_; }
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return static_cast<int64_t>(offsets_.size()) - 1; }

  /// Token ids [first, first + out.size()).
  void copy(int64_t first, std::span<int32_t> out) const;
  /// Document d is tokens [offsets[d], offsets[d + 1]); the first entry is 0, the last the number of tokens.
  /// llm.c files: documents begin at GPT-2's <|endoftext|> or Llama 3's <|begin_of_text|>.
  std::span<const int64_t> document_offsets() const { return offsets_; }
  /// One byte for each token, 1 where its prediction counts; empty when all do.
  std::span<const uint8_t> loss_mask() const { return loss_mask_; }

  /// Bytes of the text that is learned (prompts are not), for bits per byte; llm.c files do not tell.
  std::optional<int64_t> text_bytes() const { return text_bytes_; }
  /// The same for each document; empty when unknown.
  std::span<const int64_t> document_bytes() const { return document_bytes_; }

  const TokenizerInfo& tokenizer() const { return tokenizer_; }
  /// The files that make the tokenizer, as the shard carries them; none where the identity says all, or the shard
  /// does not tell (llm.c).
  std::vector<TokenizerFile> tokenizer_files() const;
  /// The tokenizer itself, from what the shard embeds. Throws Error{data} for llm.c files, which embed nothing, and
  /// when it is not the one that the shard names.
  std::unique_ptr<Tokenizer> make_tokenizer() const;
  /// XXH3 of the file behind its header (Nibble) or of the whole file (llm.c): names the data in records of a run.
  uint64_t hash() const { return hash_; }

  /// Throws Error{data} when a token id, or the id that pads windows, is not below the model's vocabulary.
  void require_vocabulary(int64_t model_vocabulary) const;

 private:
  TokenData() = default;
  void open_shard();
  void open_llmc();
  void find_largest_token();

  std::string path_;
  MappedFile file_;
  bool wide_ = false;  ///< 4 bytes for each token, else 2
  const std::byte* token_bytes_ = nullptr;
  int64_t tokens_ = 0;
  int64_t largest_token_ = 0;
  std::vector<int64_t> found_offsets_;  ///< of llm.c files; shards map theirs
  std::span<const int64_t> offsets_, document_bytes_;
  std::span<const uint8_t> loss_mask_;
  std::vector<std::pair<std::string_view, std::span<const uint8_t>>> tokenizer_files_;  ///< by name
  std::optional<int64_t> text_bytes_;
  TokenizerInfo tokenizer_;
  uint64_t hash_ = 0;
};

/// Throws Error{data} when the two files were not made with the same tokenizer.
void require_same_tokenizer(const TokenData& train, const TokenData& validation);

}  // namespace nibble
