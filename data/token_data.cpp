#include "data/token_data.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "data/hdf5.hpp"
#include "data/shard_format.hpp"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace nibble {
namespace {

/// llm.c, dev/data/data_common.py: 256 int32 of header (magic, version, number of tokens, zeros), then the tokens.
/// Each document begins with its tokenizer's separator (dev/data/fineweb.py).
struct LlmcFormat {
  uint32_t magic, version;
  bool wide;
  const char* identity;
  int32_t vocabulary, bos, eos;
};
constexpr LlmcFormat llmc_formats[] = {
    {20240520, 1, false, "llm.c:gpt2", 50257, 50256, 50256},      // <|endoftext|>
    {20240801, 7, true, "llm.c:llama3", 128256, 128000, 128001},  // <|begin_of_text|>, <|end_of_text|>
};
constexpr size_t llmc_header = 256 * sizeof(int32_t);

/// What stands behind a right checksum and still cannot be: another program wrote it.
[[noreturn]] void refuse_contents(const std::string& path, std::string what, std::string seen, std::string allowed) {
  refuse_tokens(path, std::move(what), std::move(seen), std::move(allowed), "make the file again with nibble tokenize");
}

uint32_t word_at(std::span<const std::byte> file, size_t index) {
  uint32_t word = 0;
  if (file.size() >= (index + 1) * sizeof word) std::memcpy(&word, file.data() + index * sizeof word, sizeof word);
  return word;
}

const LlmcFormat* find_llmc_format(std::span<const std::byte> file) {
  for (const LlmcFormat& format : llmc_formats)
    if (word_at(file, 0) == format.magic) return &format;
  return nullptr;
}

/// A vector of the shard, in place.
template <class T>
std::span<const T> map_vector(hdf5::File& file, std::span<const std::byte> bytes, const std::string& name,
                              int64_t expected, const std::string& path) {
  const hdf5::DatasetInfo info = file.describe(name);
  const bool typed = info.dtype == dtype_of<T> && info.shape.size() == 1;
  if (!typed || (expected >= 0 && info.size() != expected))
    refuse_contents(path, fmt::format("the dataset '{}' of the token shard has another type or length", name),
                    fmt::format("{} [{}]", nibble::name(info.dtype), fmt::join(info.shape, ", ")),
                    fmt::format("{} [{}]", nibble::name(dtype_of<T>), expected < 0 ? "N" : fmt::to_string(expected)));
  if (info.size() == 0) return {};
  const bool inside = info.offset >= 0 && static_cast<size_t>(info.offset) <= bytes.size() &&
                      static_cast<size_t>(info.size()) <= (bytes.size() - static_cast<size_t>(info.offset)) / sizeof(T);
  if (!inside || static_cast<size_t>(info.offset) % alignof(T) != 0)
    refuse_contents(
        path, fmt::format("the dataset '{}' of the token shard lies outside the file or between words", name),
        fmt::format("offset {}", info.offset), fmt::format("a multiple of {} below {}", alignof(T), bytes.size()));
  return {reinterpret_cast<const T*>(bytes.data() + info.offset), static_cast<size_t>(info.size())};
}

}  // namespace

TokenData TokenData::open(const std::string& path) {
  TokenData data;
  data.path_ = path;
  std::error_code error;
  if (std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found)
    refuse_tokens(path, "the token file does not exist", "no such file",
                  "a file made by nibble tokenize, or an llm.c .bin file", "make it with nibble tokenize");
  data.file_ = MappedFile(path, ErrorKind::data);
  if (find_llmc_format(data.file_.bytes()) != nullptr) data.open_llmc();
  else data.open_shard();
  data.find_largest_token();
  data.require_vocabulary(data.tokenizer_.vocabulary);
  return data;
}

void TokenData::open_shard() {
  const std::span<const std::byte> bytes = file_.bytes();
  hash_ = ShardHeader::verify(bytes, path_).checksum;
  hdf5::File file = hdf5::File::open(file_, ErrorKind::data);
  wide_ = file.describe("tokens").dtype == DType::i32;
  if (wide_) {
    const auto tokens = map_vector<int32_t>(file, bytes, "tokens", -1, path_);
    token_bytes_ = std::as_bytes(tokens).data();
    tokens_ = static_cast<int64_t>(tokens.size());
  } else {
    const auto tokens = map_vector<uint16_t>(file, bytes, "tokens", -1, path_);
    token_bytes_ = std::as_bytes(tokens).data();
    tokens_ = static_cast<int64_t>(tokens.size());
  }
  offsets_ = map_vector<int64_t>(file, bytes, "document_offsets", -1, path_);
  if (offsets_.size() < 2 || offsets_.front() != 0 || offsets_.back() != tokens_ ||
      std::ranges::adjacent_find(offsets_, std::greater_equal()) != offsets_.end())
    refuse_contents(path_, "the document offsets of the token shard do not rise from 0 to its length",
                    fmt::format("{} offsets", offsets_.size()),
                    fmt::format("offsets from 0 to {}, each above the one before", tokens_));
  document_bytes_ = map_vector<int64_t>(file, bytes, "document_bytes", documents(), path_);
  const auto negative = std::ranges::find_if(document_bytes_, [](int64_t count) { return count < 0; });
  if (negative != document_bytes_.end())
    refuse_contents(path_, "a document of the token shard has a negative number of bytes", fmt::format("{}", *negative),
                    "0 or more");
  if (file.contains("loss_mask")) loss_mask_ = map_vector<uint8_t>(file, bytes, "loss_mask", tokens_, path_);
  tokenizer_.identity = file.string_attribute("/", "tokenizer");
  for (const std::string_view name : tokenizer_.file_names()) {
    const std::string dataset = shard_dataset_of(name);
    if (file.contains(dataset))
      tokenizer_files_.emplace_back(name, map_vector<uint8_t>(file, bytes, dataset, -1, path_));
  }
  const std::string hash = file.string_attribute("/", "tokenizer_hash");
  const std::optional<uint64_t> parsed_hash = parse_hex(hash);
  if (!parsed_hash)
    refuse_contents(path_, "the attribute tokenizer_hash of the token shard is not a hash", hash,
                    "16 hexadecimal digits");
  tokenizer_.hash = *parsed_hash;
  const auto attribute = [&](const char* name, int64_t minimum, int64_t maximum) {
    const int64_t value = file.integer_attribute("/", name);
    if (value < minimum || value > maximum)
      refuse_contents(path_, fmt::format("the attribute {} of the token shard is out of range", name),
                      fmt::format("{}", value), fmt::format("{} to {}", minimum, maximum));
    return value;
  };
  text_bytes_ = attribute("text_bytes", 0, std::numeric_limits<int64_t>::max());
  tokenizer_.vocabulary = static_cast<int32_t>(attribute("vocabulary", 1, std::numeric_limits<int32_t>::max()));
  const auto special = [&](const char* name) {
    return static_cast<int32_t>(attribute(name, -1, tokenizer_.vocabulary - 1));
  };
  tokenizer_.bos = special("bos");
  tokenizer_.eos = special("eos");
  tokenizer_.pad = special("pad");
}

void TokenData::open_llmc() {
  const std::span<const std::byte> bytes = file_.bytes();
  const LlmcFormat& format = *find_llmc_format(bytes);
  const std::string again = "fetch the file again, or make it again with llm.c's scripts";
  if (word_at(bytes, 1) != format.version)
    refuse_tokens(path_, "the llm.c token file has another version", fmt::format("version {}", word_at(bytes, 1)),
                  fmt::format("version {}", format.version), again);
  wide_ = format.wide;
  tokens_ = word_at(bytes, 2);
  const uint64_t length = llmc_header + static_cast<uint64_t>(tokens_) * (wide_ ? 4 : 2);
  if (bytes.size() != length)
    refuse_tokens(path_,
                  bytes.size() < length ? "the llm.c token file is truncated" : "the llm.c token file is too long",
                  fmt::format("{} bytes", bytes.size()), fmt::format("{} bytes for {} tokens", length, tokens_), again);
  if (tokens_ == 0) refuse_tokens(path_, "the llm.c token file holds no token", "0 tokens", "", again);
  token_bytes_ = bytes.data() + llmc_header;
  hash_ = checksum(bytes);
  tokenizer_ = {.identity = format.identity,
                .hash = checksum(bytes_of(format.identity)),
                .vocabulary = format.vocabulary,
                .bos = format.bos,
                .eos = format.eos,
                .pad = -1};
  found_offsets_.push_back(0);
  std::vector<int32_t> block(1 << 16);
  for (int64_t first = 0; first < tokens_; first += static_cast<int64_t>(block.size())) {
    block.resize(static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(block.size()), tokens_ - first)));
    copy(first, block);
    for (size_t i = 0; i < block.size(); ++i)
      if (block[i] == format.bos && first + static_cast<int64_t>(i) > 0)
        found_offsets_.push_back(first + static_cast<int64_t>(i));
  }
  found_offsets_.push_back(tokens_);
  offsets_ = found_offsets_;
}

void TokenData::copy(int64_t first, std::span<int32_t> out) const {
  assert(first >= 0 && first + static_cast<int64_t>(out.size()) <= tokens_);
  if (wide_) {
    std::memcpy(out.data(), token_bytes_ + first * 4, out.size() * 4);
  } else {
    const auto* narrow_tokens = reinterpret_cast<const uint16_t*>(token_bytes_) + first;
    std::copy_n(narrow_tokens, out.size(), out.begin());
  }
}

void TokenData::find_largest_token() {
  // As unsigned numbers, so that a negative id counts as a large one. The compiler vectorises both loops.
  uint32_t largest = 0;
  if (wide_) {
    const auto* ids = reinterpret_cast<const uint32_t*>(token_bytes_);
    for (int64_t i = 0; i < tokens_; ++i) largest = std::max(largest, ids[i]);
  } else {
    const auto* ids = reinterpret_cast<const uint16_t*>(token_bytes_);
    uint16_t largest_narrow = 0;
    for (int64_t i = 0; i < tokens_; ++i) largest_narrow = std::max(largest_narrow, ids[i]);
    largest = largest_narrow;
  }
  largest_token_ = largest;
}

void TokenData::require_vocabulary(int64_t model_vocabulary) const {
  const int32_t padding = tokenizer_.padding();
  if (std::max<int64_t>(largest_token_, padding) < model_vocabulary) return;
  refuse_tokens(path_, "a token id is outside the vocabulary",
                largest_token_ >= model_vocabulary ? fmt::format("token id {}", largest_token_)
                                                   : fmt::format("token id {}, which pads windows", padding),
                fmt::format("0 to {}", model_vocabulary - 1),
                fmt::format("the tokens were made with {} ({} ids): use a model with at least that vocabulary",
                            tokenizer_.identity, tokenizer_.vocabulary));
}

std::vector<TokenizerFile> TokenData::tokenizer_files() const {
  std::vector<TokenizerFile> files;
  for (const auto& [name, contents] : tokenizer_files_)
    files.push_back({std::string(name), std::string(contents.begin(), contents.end())});
  return files;
}

std::unique_ptr<Tokenizer> TokenData::make_tokenizer() const {
  std::unique_ptr<Tokenizer> tokenizer = make_recorded_tokenizer(tokenizer_, tokenizer_files());
  if (!tokenizer)
    refuse_tokens(path_, "the token file does not hold its tokenizer", tokenizer_.identity,
                  "a shard made by nibble tokenize");
  const TokenizerInfo& info = tokenizer->info();
  if (info.hash != tokenizer_.hash || info.vocabulary != tokenizer_.vocabulary)
    refuse_tokens(path_, "the token file holds another tokenizer than the one it names",
                  fmt::format("{} ids, hash {}", info.vocabulary, hex(info.hash)),
                  fmt::format("{} ids, hash {} ({})", tokenizer_.vocabulary, hex(tokenizer_.hash), tokenizer_.identity),
                  "make it again with nibble tokenize");
  return tokenizer;
}

void require_same_tokenizer(const TokenData& train, const TokenData& validation) {
  const TokenizerInfo &a = train.tokenizer(), &b = validation.tokenizer();
  if (a.hash == b.hash && a.vocabulary == b.vocabulary) return;
  refuse_tokens(validation.path(), "training and validation tokens were made with different tokenizers",
                fmt::format("{} ({} ids, hash {})", b.identity, b.vocabulary, hex(b.hash)),
                fmt::format("{} ({} ids, hash {}), as in {}", a.identity, a.vocabulary, hex(a.hash), train.path()),
                "make both with one nibble tokenize --validation, or with the same --tokenizer");
}

}  // namespace nibble
