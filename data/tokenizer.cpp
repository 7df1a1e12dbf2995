#include "data/tokenizer.hpp"

#include "fmt/format.h"
#include "tensor/files.hpp"

namespace nibble {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    info_ = {.identity = "byte",
             .hash = checksum(bytes_of("nibble bytes, 256 BOS, 257 EOS, 258 PAD")),
             .vocabulary = 259,
             .bos = 256,
             .eos = 257,
             .pad = 258};
    token_texts_.resize(259);
    for (int byte = 0; byte < 256; ++byte)
      token_texts_[static_cast<size_t>(byte)] = std::string(1, static_cast<char>(byte));
  }

  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    const size_t before = ids.size();
    ids.resize(before + text.size());
    for (size_t i = 0; i < text.size(); ++i) ids[before + i] = static_cast<unsigned char>(text[i]);
  }
};

}  // namespace

const std::string& Tokenizer::token_text(int32_t id) const {
  if (id < 0 || id >= info_.vocabulary)
    throw Error({.kind = ErrorKind::data,
                 .what = "a token id lies outside the tokenizer's vocabulary",
                 .where = "tokenizer " + info_.identity,
                 .seen = fmt::format("{}", id),
                 .allowed = fmt::format("0 to {}", info_.vocabulary - 1),
                 .next = "use the tokenizer that the tokens were made with"});
  return token_texts_[static_cast<size_t>(id)];
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (int32_t id : ids) text += token_text(id);
  if (leading_space_ && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_path) {
  if (name_or_path == "byte") return make_byte_tokenizer();
  const std::filesystem::path path(name_or_path);
  std::error_code error;
  if (std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found)
    throw Error({.kind = ErrorKind::data,
                 .what = "the tokenizer does not exist",
                 .seen = name_or_path,
                 .allowed = "byte, or the path of a SentencePiece model",
                 .next = "train one with nibble tokenize --train-sentencepiece 8000 --tokenizer-output FILE"});
  return make_sentencepiece_tokenizer(read_file(path, ErrorKind::data), path.stem().string());
}

std::unique_ptr<Tokenizer> make_recorded_tokenizer(const TokenizerInfo& info, std::string model) {
  if (info.identity == "byte") return make_byte_tokenizer();
  if (!info.is_sentencepiece() || model.empty()) return nullptr;
  return make_sentencepiece_tokenizer(std::move(model),
                                      info.identity.substr(TokenizerInfo::sentencepiece_prefix.size()));
}

void require_utf8(std::string_view text, const std::string& where) {
  const size_t position = find_invalid_utf8(text);
  if (position == std::string_view::npos) return;
  throw Error({.kind = ErrorKind::data,
               .what = "the text is not UTF-8",
               .where = fmt::format("{}{}byte {} of the text", where, where.empty() ? "" : ", ", position),
               .seen = fmt::format("0x{:02x}", static_cast<unsigned char>(text[position])),
               .allowed = "UTF-8, which SentencePiece needs",
               .next = "convert the text with iconv, or use --tokenizer byte"});
}

size_t find_invalid_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    const unsigned char lead = bytes[i];
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                          : (lead & 0xF0) == 0xE0        ? 3
                          : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                         : 0;
    if (length == 0 || text.size() - i < length) return i;
    // The second byte's range excludes overlong forms, surrogates and code points above U+10FFFF.
    const unsigned char lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (bytes[i + 1] < lowest || bytes[i + 1] > highest) return i;
    for (size_t k = 2; k < length; ++k)
      if ((bytes[i + k] & 0xC0) != 0x80) return i;
    i += length;
  }
  return std::string_view::npos;
}

}  // namespace nibble
