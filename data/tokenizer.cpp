#include "data/tokenizer.hpp"

#include "data/byte_level_tokenizer.hpp"
#include "fmt/format.h"
#include "tensor/files.hpp"

namespace nibble {
namespace {

constexpr const char* sentencepiece_files[] = {sentencepiece_file_name};
constexpr const char* huggingface_files[] = {tokenizer_json_file_name, "tokenizer_config.json",
                                             "special_tokens_map.json"};

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

std::span<const char* const> TokenizerInfo::file_names() const {
  if (is_sentencepiece()) return sentencepiece_files;
  if (is_huggingface()) return huggingface_files;
  return {};
}

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

namespace {

namespace fs = std::filesystem;

/// The folder's name, which tells more than tokenizer.json.
std::string name_of_folder(const fs::path& folder) {
  std::error_code error;
  const fs::path whole = fs::canonical(folder, error);
  return (error ? folder : whole).filename().string();
}

std::unique_ptr<Tokenizer> make_json_tokenizer(const fs::path& path) {
  std::vector<TokenizerFile> files = {{tokenizer_json_file_name, read_file(path, ErrorKind::data)}};
  for (const char* name : std::span(huggingface_files).subspan(1)) {
    const fs::path beside = path.parent_path() / name;
    std::error_code error;
    if (fs::exists(beside, error)) files.push_back({name, read_file(beside, ErrorKind::data)});
  }
  const std::string name = path.filename() == tokenizer_json_file_name
                               ? name_of_folder(fs::absolute(path).parent_path())
                               : path.stem().string();
  return std::make_unique<ByteLevelTokenizer>(std::move(files), name);
}

}  // namespace

std::unique_ptr<Tokenizer> make_folder_tokenizer(const fs::path& folder) {
  std::error_code error;
  std::string problems;
  const fs::path model = folder / sentencepiece_file_name, json = folder / tokenizer_json_file_name;
  if (fs::exists(model, error)) {
    try {
      return make_sentencepiece_tokenizer(read_file(model, ErrorKind::data), name_of_folder(folder));
    } catch (const Error& problem) {  // Llama 3 has a file of this name that is none of SentencePiece's
      problems = fmt::format("{}: {}", sentencepiece_file_name, problem.detail().what);
    }
  }
  if (fs::exists(json, error)) {
    if (problems.empty()) return make_json_tokenizer(json);
    try {
      return make_json_tokenizer(json);
    } catch (const Error& problem) {
      problems += fmt::format("; {}: {}", problem.detail().where, problem.detail().what);
    }
  }
  throw Error({.kind = ErrorKind::data,
               .what = problems.empty() ? "the folder holds no tokenizer" : "the folder's tokenizers cannot be used",
               .where = folder.string(),
               .seen = problems,
               .allowed = fmt::format("a SentencePiece {}, or a {} with a byte-level BPE", sentencepiece_file_name,
                                      tokenizer_json_file_name),
               .next = "put the model's tokenizer there"});
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_path) {
  if (name_or_path == "byte") return make_byte_tokenizer();
  const fs::path path(name_or_path);
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::not_found)
    throw Error({.kind = ErrorKind::data,
                 .what = "the tokenizer does not exist",
                 .seen = name_or_path,
                 .allowed = "byte, or the path of a SentencePiece model, a tokenizer.json, or a folder with one",
                 .next = "train one with nibble tokenize --train-sentencepiece 8000 --tokenizer-output FILE"});
  if (type == fs::file_type::directory) return make_folder_tokenizer(path);
  if (path.extension() == ".json") return make_json_tokenizer(path);
  return make_sentencepiece_tokenizer(read_file(path, ErrorKind::data), path.stem().string());
}

std::unique_ptr<Tokenizer> make_recorded_tokenizer(const TokenizerInfo& info, std::vector<TokenizerFile> files) {
  if (info.identity == "byte") return make_byte_tokenizer();
  if (files.empty()) return nullptr;
  const auto name = [&](std::string_view prefix) { return info.identity.substr(prefix.size()); };
  if (info.is_sentencepiece())
    return make_sentencepiece_tokenizer(std::move(files.front().contents), name(TokenizerInfo::sentencepiece_prefix));
  if (info.is_huggingface())
    return std::make_unique<ByteLevelTokenizer>(std::move(files), name(TokenizerInfo::huggingface_prefix));
  return nullptr;
}

void require_utf8(std::string_view text, const std::string& where) {
  const size_t position = find_invalid_utf8(text);
  if (position == std::string_view::npos) return;
  throw Error({.kind = ErrorKind::data,
               .what = "the text is not UTF-8",
               .where = fmt::format("{}{}byte {} of the text", where, where.empty() ? "" : ", ", position),
               .seen = fmt::format("0x{:02x}", static_cast<unsigned char>(text[position])),
               .allowed = "UTF-8, which all tokenizers but the bytes need",
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
