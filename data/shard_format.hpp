// The 512 bytes before a token shard's HDF5 data: what must be right before HDF5 opens the file.
//
//   0   8  magic "NIBBLETK"
//   8   4  schema version, 12  4  zero
//  16   8  length of the whole file in bytes
//  24   8  XXH3 (64 bits) of bytes [512, length)
//  32 472  zero
// 504   8  XXH3 of bytes [0, 504)
//
// All numbers little-endian. Not for: what lies in the HDF5 data (shard_writer.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

/// Throws Error{data} about a file of tokens.
[[noreturn]] void refuse_tokens(const std::string& path, std::string what, std::string seen, std::string allowed = {},
                                std::string next = {});

struct ShardHeader {
  static constexpr size_t size = 512;  ///< HDF5's smallest user block
  static constexpr char magic[9] = "NIBBLETK";
  /// Readers accept this schema and the one before it, which does not exist yet.
  static constexpr uint32_t newest_schema = 1, oldest_schema = 1;

  uint32_t schema = newest_schema;
  uint64_t file_length = 0;
  uint64_t checksum = 0;

  std::array<std::byte, size> encode() const;
  /// Whether the bytes begin with the magic.
  static bool matches(std::span<const std::byte> file);
  /// Verifies header, length and checksum of a whole file. Throws Error{data} with `path`.
  static ShardHeader verify(std::span<const std::byte> file, const std::string& path);
};

/// The dataset of a token shard that holds the tokenizer's file of that name (TokenizerInfo::file_names).
std::string shard_dataset_of(std::string_view tokenizer_file);

/// What a file is, by its first bytes: "an xz-compressed file", "a safetensors file", "text", ...
std::string identify(std::span<const std::byte> file);

}  // namespace nibble
