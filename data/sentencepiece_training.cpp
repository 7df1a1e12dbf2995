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

// Large documents are sampled piece by piece.
constexpr size_t longest_piece = size_t{64} << 10;

/// The largest length <= `most` < text.size() that does not end inside a character of the UTF-8 text.
size_t longest_whole(std::string_view text, size_t most) {
  while ((static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;
  return most;
}

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
      if (length < rest.size() && length < newline) length = longest_whole(rest, length);
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
  require_utf8(text, where);
  while (!text.empty()) {
    size_t length = text.size();
    if (length > longest_piece) {
      const size_t newline = text.rfind('\n', longest_piece - 1);
      length = newline != std::string_view::npos ? newline + 1 : longest_whole(text, longest_piece);
    }
    add_piece(text.substr(0, length));
    text.remove_prefix(length);
  }
}

void SentencePieceTraining::add_piece(std::string_view text) {
  const uint64_t hash = checksum(bytes_of(text));
  const int64_t number = added_++;
  if (hash >= dropped_hash_) return;
  const auto smaller_hash = [](const Piece& a, const Piece& b) { return a.hash < b.hash; };
  pieces_.push_back({hash, number, std::string(text)});
  bytes_ += pieces_.back().bytes();
  std::ranges::push_heap(pieces_, smaller_hash);
  while (bytes_ > most_bytes_ && pieces_.size() > 1) {
    std::ranges::pop_heap(pieces_, smaller_hash);
    dropped_hash_ = pieces_.back().hash;
    bytes_ -= pieces_.back().bytes();
    pieces_.pop_back();
  }
}

std::string SentencePieceTraining::train(int64_t vocabulary) {
  if (pieces_.empty())
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
  std::vector<const Piece*> in_order;
  for (const Piece& piece : pieces_) in_order.push_back(&piece);
  std::ranges::sort(in_order, {}, &Piece::number);
  std::vector<std::string_view> texts;
  for (const Piece* piece : in_order) texts.emplace_back(piece->text);
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
