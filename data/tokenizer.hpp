// From text to token ids and back: raw bytes, SentencePiece models such as Llama 2's, and Hugging Face's tokenizer.json
// such as Llama 3's.
//
// Not for: training a SentencePiece model (sentencepiece_training.hpp) and not for files of ids (shard_writer.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/error.hpp"

namespace nibble {

/// A file that a tokenizer is made of, by its name in Hugging Face folders.
struct TokenizerFile {
  std::string name;
  std::string contents;

  bool operator==(const TokenizerFile&) const = default;
};
inline constexpr const char* sentencepiece_file_name = "tokenizer.model";
inline constexpr const char* tokenizer_json_file_name = "tokenizer.json";

/// What a token shard and a checkpoint record about a tokenizer.
struct TokenizerInfo {
  std::string identity{};  ///< "byte", "sentencepiece:NAME", "huggingface:NAME", or "llm.c:gpt2"
  uint64_t hash = 0;       ///< equal hashes: equal ids for equal text
  int32_t vocabulary = 0;  ///< ids are 0 .. vocabulary - 1
  int32_t bos = -1;        ///< stands once before each document; -1: the tokenizer has none
  int32_t eos = -1;
  int32_t pad = -1;  ///< -1: EOS pads

  bool is_sentencepiece() const { return identity.starts_with(sentencepiece_prefix); }
  bool is_huggingface() const { return identity.starts_with(huggingface_prefix); }
  /// Of the files that may make such a tokenizer: the first must be there. None where the identity says all.
  std::span<const char* const> file_names() const;
  /// What stands where a window holds no token.
  int32_t padding() const { return pad >= 0 ? pad : eos >= 0 ? eos : 0; }

  static constexpr std::string_view sentencepiece_prefix = "sentencepiece:", huggingface_prefix = "huggingface:";
  bool operator==(const TokenizerInfo&) const = default;
};

/// Immutable after construction; `encode` and `decode` may run in several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  const TokenizerInfo& info() const { return info_; }
  int32_t vocabulary() const { return info_.vocabulary; }
  int32_t bos() const { return info_.bos; }
  int32_t eos() const { return info_.eos; }

  /// Appends the ids of `text`, without BOS and EOS.
  /// All but the bytes need UTF-8: throws Error{data} with the position of the first invalid byte.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids) const = 0;
  std::vector<int32_t> encode(std::string_view text) const {
    std::vector<int32_t> ids;
    encode(text, ids);
    return ids;
  }

  /// As `encode`, for text that goes on after other text: SentencePiece puts no space before it. So a prompt's ids
  /// followed by its completion's decode to the prompt followed by the completion.
  virtual void encode_continuation(std::string_view text, std::vector<int32_t>& ids) const { encode(text, ids); }

  /// The bytes that one token stands for; empty for BOS, EOS and PAD. A multi-byte character may be spread over tokens.
  /// Throws Error{data} for an id outside the vocabulary.
  const std::string& token_text(int32_t id) const;

  /// The text of a whole sequence. Special tokens vanish. The text of a prefix of `ids` is a prefix of the text of
  /// `ids`, so a generator can print what each new token adds.
  std::string decode(std::span<const int32_t> ids) const;

  /// The files that make this tokenizer, which token shards and checkpoints carry; none where the identity says all.
  const std::vector<TokenizerFile>& files() const { return files_; }

 protected:
  TokenizerInfo info_;
  std::vector<TokenizerFile> files_;
  std::vector<std::string> token_texts_;  ///< one for each id
  bool leading_space_ = false;            ///< the encoder puts a space before the text, the decoder takes it away
};

/// Ids 0..255 are the bytes; 256 = BOS, 257 = EOS, 258 = PAD. Any bytes are valid text.
std::unique_ptr<Tokenizer> make_byte_tokenizer();

/// `model`: the contents of a SentencePiece model file; `name` stands in the identity.
/// Throws Error{data} when it is not one or has no BOS or EOS.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string model, const std::string& name);

/// "byte", the path of a SentencePiece model or of a tokenizer.json (a name that ends in .json; what lies beside it
/// names EOS and PAD), or a folder with one of them. Throws Error{data} for a missing or foreign file.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_path);

/// The tokenizer of a folder: tokenizer.model if it is one of SentencePiece's, else tokenizer.json. Throws Error{data},
/// with what is wrong with each, where neither can be used.
std::unique_ptr<Tokenizer> make_folder_tokenizer(const std::filesystem::path& folder);

/// The tokenizer that a file records and carries the files of. Null where the identity and they do not tell it (llm.c
/// data). The caller compares `info()` with the record.
std::unique_ptr<Tokenizer> make_recorded_tokenizer(const TokenizerInfo& info, std::vector<TokenizerFile> files);

/// Throws Error{data} with `where`, if there is one, and the position of the first byte that is not valid UTF-8.
void require_utf8(std::string_view text, const std::string& where = {});

/// Position of the first byte that is not valid UTF-8 (RFC 3629: no surrogates, no overlong forms); npos when all is.
size_t find_invalid_utf8(std::string_view text);

}  // namespace nibble
