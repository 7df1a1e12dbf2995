// Writes a token shard: an HDF5 file with token ids and all that is needed to train and evaluate on them.
//
//   tokens            [n]     u16, or i32 when the vocabulary is above 65536
//   document_offsets  [d + 1] i64: document k is tokens [offsets[k], offsets[k + 1])
//   document_bytes    [d]     i64: bytes of each document that are learned: its text without the prompt
//   loss_mask         [n]     u8, 1 where predicting the token counts; only when some documents have prompts
//   tokenizer_model   [m]     u8, the SentencePiece model or tokenizer.json; not for bytes
//   tokenizer_config, special_tokens_map  u8, the files of these names that lay beside tokenizer.json
//   attributes of /: schema, tokenizer, tokenizer_hash, vocabulary, bos, eos, pad, text_bytes
//
// behind the header of shard_format.hpp. Equal documents give equal files, byte for byte.
// Not for: reading (token_data.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.hpp"
#include "tensor/files.hpp"

namespace nibble {

/// Memory is constant, whatever is added: ids go to unnamed temporary files beside the target until `finish` knows
/// their number.
class ShardWriter {
 public:
  /// `path` gets its name only in `finish`. Throws Error{resource} when the folder cannot be written.
  ShardWriter(const std::string& path, const Tokenizer& tokenizer);
  ~ShardWriter();

  /// One document: its ids, specials included, of which the first `prompt_tokens` are not learned; and the bytes of the
  /// text that the others stand for. A document without ids is left out. Throws Error{resource} when the disk is full.
  void add(const std::vector<int32_t>& ids, int64_t prompt_tokens, int64_t text_bytes);

  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  int64_t text_bytes() const { return text_bytes_; }

  /// Writes the file, syncs it and gives it its name. Throws Error{data} when there was no document, Error{resource}
  /// when the disk is full. Nothing may be added afterwards.
  void finish();

 private:
  class Spool;
  void append_mask(int64_t count, uint8_t value);

  const Tokenizer& tokenizer_;
  std::string path_;
  AtomicFile file_;
  std::unique_ptr<Spool> token_spool_, offset_spool_, bytes_spool_;
  std::unique_ptr<Spool> mask_spool_;  ///< from the first prompt on
  bool wide_;
  int64_t tokens_ = 0, documents_ = 0, text_bytes_ = 0;
};

}  // namespace nibble
