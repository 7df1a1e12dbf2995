#include "data/shard_format.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "data/byte_source.hpp"
#include "data/tokenizer.hpp"
#include "fmt/format.h"
#include "tensor/error.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "headers are copied as they lie in memory");

constexpr size_t magic_size = 8, schema_at = 8, length_at = 16, checksum_at = 24, own_checksum_at = 504;
constexpr std::string_view hdf5_signature = "\x89HDF\r\n\x1a\n";

template <class T>
void put(std::span<std::byte> bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}
template <class T>
T get(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::string_view text_at(std::span<const std::byte> file, size_t offset, size_t size) {
  if (file.size() < offset + size) return {};
  return {reinterpret_cast<const char*>(file.data()) + offset, size};
}

}  // namespace

std::array<std::byte, ShardHeader::size> ShardHeader::encode() const {
  std::array<std::byte, size> bytes{};
  std::memcpy(bytes.data(), magic, magic_size);
  put(bytes, schema_at, schema);
  put(bytes, length_at, file_length);
  put(bytes, checksum_at, checksum);
  put(bytes, own_checksum_at, nibble::checksum(std::span(bytes).first(own_checksum_at)));
  return bytes;
}

bool ShardHeader::matches(std::span<const std::byte> file) {
  return text_at(file, 0, magic_size) == std::string_view(magic, magic_size);
}

void refuse_tokens(const std::string& path, std::string what, std::string seen, std::string allowed, std::string next) {
  throw Error({.kind = ErrorKind::data,
               .what = std::move(what),
               .where = path,
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = std::move(next)});
}

ShardHeader ShardHeader::verify(std::span<const std::byte> file, const std::string& path) {
  const auto refuse = [&](std::string what, std::string seen, std::string allowed, std::string next) {
    refuse_tokens(path, std::move(what), std::move(seen), std::move(allowed), std::move(next));
  };
  const std::string again = "copy the file again, or make it again with nibble tokenize";
  if (!matches(file))
    refuse("this is not a token shard", identify(file), "a file made by nibble tokenize, or an llm.c .bin file",
           "nibble tokenize makes shards from text, folders and JSON lines");
  if (file.size() < size)
    refuse("the token shard is truncated", fmt::format("{} bytes", file.size()),
           fmt::format("{} bytes of header", size), again);
  if (get<uint64_t>(file, own_checksum_at) != nibble::checksum(file.first(own_checksum_at)))
    refuse("the token shard's header is damaged", "a wrong checksum", "the checksum that was written", again);
  ShardHeader header;
  header.schema = get<uint32_t>(file, schema_at);
  header.file_length = get<uint64_t>(file, length_at);
  header.checksum = get<uint64_t>(file, checksum_at);
  if (header.schema > newest_schema || header.schema < oldest_schema)
    refuse("the token shard has a schema that this version of Nibble does not read",
           fmt::format("schema {}", header.schema), fmt::format("schema {} to {}", oldest_schema, newest_schema),
           header.schema > newest_schema ? "use a newer Nibble, or make the shard again with this one"
                                         : "make the shard again with this version");
  if (file.size() != header.file_length)
    refuse(file.size() < header.file_length ? "the token shard is truncated" : "the token shard is too long",
           fmt::format("{} bytes", file.size()), fmt::format("{} bytes", header.file_length), again);
  const uint64_t seen = nibble::checksum(file.subspan(size));
  if (seen != header.checksum)
    refuse("the token shard is damaged", "checksum " + hex(seen), "checksum " + hex(header.checksum), again);
  return header;
}

std::string shard_dataset_of(std::string_view tokenizer_file) {
  if (tokenizer_file == sentencepiece_file_name || tokenizer_file == tokenizer_json_file_name) return "tokenizer_model";
  return std::string(tokenizer_file.substr(0, tokenizer_file.find('.')));
}

std::string identify(std::span<const std::byte> file) {
  if (file.empty()) return "an empty file";
  struct Signature {
    std::string_view bytes;
    const char* name;
  };
  using namespace std::string_view_literals;
  static constexpr Signature signatures[] = {
      {"NIBBLETK"sv, "a Nibble token shard"},
      {hdf5_signature, "an HDF5 file without Nibble's header"},
      {xz_signature, "an xz-compressed file"},
      {gzip_signature, "a gzip-compressed file"},
      {zstd_signature, "a Zstandard-compressed file"},
      {"MMIDIDX\0\0"sv, "a Megatron index file"},
      {"\x93NUMPY"sv, "a NumPy array"},
      {"PAR1"sv, "a Parquet file"},
      {"ARROW1"sv, "an Arrow file"},
      {"GGUF"sv, "a GGUF model"},
      {"PK\x03\x04"sv, "a zip archive (or a PyTorch file)"},
      {"%PDF"sv, "a PDF document"},
      {"\x7f"
       "ELF"sv,
       "a program"},
  };
  for (const Signature& signature : signatures)
    if (text_at(file, 0, signature.bytes.size()) == signature.bytes) return signature.name;
  if (text_at(file, ShardHeader::size, hdf5_signature.size()) == hdf5_signature)
    return "an HDF5 file whose first 512 bytes are not Nibble's header";
  if (file.size() >= 4) {
    switch (get<uint32_t>(file, 0)) {
      case 20240520:
        return "an llm.c GPT-2 token file";
      case 20240801:
        return "an llm.c Llama 3 token file";
      case 20240522:
        return "an llm.c evaluation file";
      case 20240326:
      case 20240803:
        return "an llm.c model";
      case 20240327:
        return "an llm.c debug state";
      case 20240328:
        return "an llm.c tokenizer";
      default:
        break;
    }
  }
  if (file.size() > 9 && get<uint64_t>(file, 0) < file.size() && text_at(file, 8, 2) == "{\"")
    return "a safetensors file";
  const std::span<const std::byte> head = file.first(std::min<size_t>(file.size(), 512));
  const bool text = std::none_of(head.begin(), head.end(), [](std::byte byte) {
    const int value = std::to_integer<int>(byte);
    return value < 32 && value != '\n' && value != '\r' && value != '\t' && value != '\f';
  });
  if (text) return std::to_integer<char>(file[0]) == '{' ? "JSON" : "text";
  return "binary data of unknown kind";
}

}  // namespace nibble
