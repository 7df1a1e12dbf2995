#include <sentencepiece_processor.h>

#include <algorithm>
#include <charconv>

#include "data/shard_format.hpp"
#include "data/tokenizer.hpp"
#include "fmt/format.h"
#include "tensor/files.hpp"

namespace nibble {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581 stands for a space inside pieces

[[noreturn]] void refuse(const std::string& name, std::string seen, std::string allowed) {
  throw Error({.kind = ErrorKind::data,
               .what = "this is not a SentencePiece model that Nibble can use",
               .where = name,
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "give a tokenizer.model such as Llama 2's, or train one with --train-sentencepiece"});
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string contents, const std::string& name) {
    files_.push_back({sentencepiece_file_name, std::move(contents)});
    const std::string& model = files_.front().contents;
    // A model is a protocol buffer whose first field is the list of pieces; other files do not reach the parser.
    if (model.empty() || model[0] != '\x0A') refuse(name, identify(bytes_of(model)), "a SentencePiece model file");
    const sentencepiece::util::Status status = processor_.LoadFromSerializedProto(model);
    if (!status.ok()) refuse(name, status.ToString(), "an undamaged SentencePiece model file");
    if (processor_.bos_id() < 0 || processor_.eos_id() < 0)
      refuse(name, fmt::format("bos {}, eos {}", processor_.bos_id(), processor_.eos_id()), "a model with BOS and EOS");
    info_ = {.identity = fmt::format("{}{}", TokenizerInfo::sentencepiece_prefix, name),
             .hash = checksum(bytes_of(model)),
             .vocabulary = processor_.GetPieceSize(),
             .bos = processor_.bos_id(),
             .eos = processor_.eos_id(),
             .pad = processor_.pad_id()};
    for (int id = 0; id < info_.vocabulary; ++id) token_texts_.push_back(text_of_piece(id, name));
    // The model file says whether a space goes before the text, the public interface does not; so a text is tried.
    const std::vector<std::string> pieces = processor_.EncodeAsPieces("a");
    leading_space_ = !pieces.empty() && pieces.front().starts_with(space_mark);
    encode("\n", newline_);
  }

  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    require_utf8(text);
    std::vector<int> pieces;
    const auto status = processor_.Encode({text.data(), text.size()}, &pieces);
    if (!status.ok())
      throw Error({.kind = ErrorKind::data, .what = "SentencePiece cannot encode the text", .seen = status.ToString()});
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }

  void encode_continuation(std::string_view text, std::vector<int32_t>& ids) const override {
    // Pieces never cross a line's end, so behind one the text gets the ids that it has inside a longer text.
    std::vector<int32_t> behind_newline = Tokenizer::encode(fmt::format("\n{}", text));
    const bool separable = leading_space_ && behind_newline.size() >= newline_.size() &&
                           std::equal(newline_.begin(), newline_.end(), behind_newline.begin());
    if (!separable) return encode(text, ids);
    ids.insert(ids.end(), behind_newline.begin() + static_cast<std::ptrdiff_t>(newline_.size()), behind_newline.end());
  }

 private:
  std::string text_of_piece(int id, const std::string& name) const {
    if (processor_.IsControl(id)) return {};
    if (processor_.IsUnknown(id)) return " \xE2\x81\x87 ";  // SentencePiece's own: U+2047 between spaces
    const std::string& piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {  // "<0x41>"
      unsigned value = 0;
      const bool hexadecimal = piece.size() == 6 && std::from_chars(&piece[3], &piece[5], value, 16).ptr == &piece[5];
      if (!hexadecimal) refuse(name, fmt::format("the byte piece '{}'", piece), "<0x00> to <0xFF>");
      return std::string(1, static_cast<char>(value));
    }
    std::string text;
    for (size_t i = 0; i < piece.size();) {
      const bool space = piece.compare(i, space_mark.size(), space_mark) == 0;
      text += space ? ' ' : piece[i];
      i += space ? space_mark.size() : 1;
    }
    return text;
  }

  sentencepiece::SentencePieceProcessor processor_;
  std::vector<int32_t> newline_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string model, const std::string& name) {
  return std::make_unique<SentencePieceTokenizer>(std::move(model), name);
}

}  // namespace nibble
