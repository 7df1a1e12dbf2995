#include "data/sentencepiece_training.hpp"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "data/tokenizer.hpp"
#include "fmt/format.h"
#include "tensor/files.hpp"

namespace nibble {
namespace {

constexpr int64_t smallest_vocabulary = 3 + 256 + 1;  // unk, bos, eos, the bytes, and one piece

// SentencePiece skips longer sentences in silence, so longer lines are cut.
constexpr size_t longest_sentence = 4096;

/// Hands lines to SentencePiece: its unit of training, since no piece crosses a line's end.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::vector<std::string_view> texts) : texts_(std::move(texts)) { Next(); }

  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    while (text_ < texts_.size()) {
      std::string_view& rest = texts_[text_];
      const size_t newline = rest.find('\n');
      size_t length = std::min({newline, rest.size(), longest_sentence});
      if (length < rest.size() && length < newline)
        while ((static_cast<unsigned char>(rest[length]) & 0xC0) == 0x80) --length;  // not inside a character
      line_.assign(rest.substr(0, length));
      rest.remove_prefix(length + (length == newline ? 1 : 0));
      if (rest.empty()) ++text_;
      if (!line_.empty()) return;
    }
    done_ = true;
  }

 private:
  std::vector<std::string_view> texts_;
  size_t text_ = 0;
  std::string line_;
  bool done_ = false;
};

}  // namespace

void SentencePieceTraining::add(std::string_view text, const std::string& where) {
  const size_t invalid = find_invalid_utf8(text);
  if (invalid != std::string_view::npos)
    throw Error({.kind = ErrorKind::data,
                 .what = "the text is not UTF-8",
                 .where = fmt::format("{}, byte {}", where, invalid),
                 .allowed = "UTF-8, which SentencePiece needs",
                 .next = "convert the text with iconv, or use --tokenizer byte"});
  const uint64_t hash = checksum(bytes_of(text));
  const auto dropped = [this](uint64_t value) { return (value & ((uint64_t{1} << halvings_) - 1)) != 0; };
  if (text.empty() || dropped(hash)) return;
  documents_.push_back({hash, std::string(text)});
  bytes_ += static_cast<int64_t>(text.size());
  while (bytes_ > most_bytes_ && documents_.size() > 1) {
    ++halvings_;
    std::erase_if(documents_, [&](const Kept& kept) {
      const bool drop = dropped(kept.hash);
      if (drop) bytes_ -= static_cast<int64_t>(kept.text.size());
      return drop;
    });
  }
}

std::string SentencePieceTraining::train(int64_t vocabulary) {
  if (documents_.empty())
    throw Error({.kind = ErrorKind::data, .what = "there is no text to train a tokenizer on", .seen = "0 documents"});
  if (vocabulary < smallest_vocabulary)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the SentencePiece vocabulary is too small",
                 .where = "--train-sentencepiece",
                 .seen = fmt::format("{}", vocabulary),
                 .allowed = fmt::format("at least {}: unk, bos, eos, 256 bytes, and pieces", smallest_vocabulary),
                 .next = "8000 suits a few megabytes of text, 32000 is Llama 2's"});
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", fmt::format("{}", vocabulary)},
      {"byte_fallback", "true"},
      {"character_coverage", "0.99995"},
      {"split_digits", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "true"},
      {"unk_id", "0"},
      {"bos_id", "1"},
      {"eos_id", "2"},
      {"pad_id", "-1"},
      {"unk_surface", " \xE2\x81\x87 "},
      {"num_threads", "1"},
      {"minloglevel", "2"},
  };
  std::vector<std::string_view> texts;
  for (const Kept& kept : documents_) texts.emplace_back(kept.text);
  Lines lines(std::move(texts));
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  if (!status.ok())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "SentencePiece cannot train a model",
                 .where = "--train-sentencepiece",
                 .seen = status.ToString(),
                 .next = "try another vocabulary size, or more text"});
  return model;
}

}  // namespace nibble
