// The safetensors container: named tensors in one file, read through a memory map, written piece by piece.
//
// Format: huggingface/safetensors README; the checks are those of its reference reader (tensor.rs, validate).
// Not for: what the names mean (huggingface.hpp). The format has no checksums: a flipped byte in the data is not seen.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/files.hpp"
#include "tensor/tensor.hpp"
#include "trainer/tensor_group.hpp"

namespace nibble {

/// One tensor of a file.
struct SafetensorsEntry {
  std::string dtype;            ///< "F32", "BF16", ...
  std::vector<int64_t> shape;   ///< any rank; [] is a scalar
  uint64_t begin = 0, end = 0;  ///< bytes, from the start of the data

  /// As a matrix: the last dimension is `cols`, the others multiply to `rows`.
  int64_t rows() const;
  int64_t cols() const;
};

/// "[256, 64]"
std::string to_string(const std::vector<int64_t>& shape);

class SafetensorsFile {
 public:
  /// Maps the file and checks all of its header. Throws Error{checkpoint} naming the tensor for: a header that is no
  /// JSON, too long or with a key twice; an unknown dtype; a size that is not that of shape and dtype or overflows;
  /// bytes that belong to no tensor or to two; a file that is too short or too long.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  /// The file's "__metadata__"; empty where it has none.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }

  bool contains(const std::string& name) const { return entries_.contains(name); }
  /// Throws Error{checkpoint} when there is no such tensor.
  const SafetensorsEntry& entry(const std::string& name) const;
  /// The stored bytes, little-endian and row-major.
  std::span<const std::byte> bytes(const std::string& name) const;

  /// Fills `into` [rows, cols], whose rows may be strided. F32, BF16, F16 and F64 are read into f32 or bf16 (rounded
  /// to nearest even); every dtype is read into the same element type. Throws Error{checkpoint} for other conversions
  /// and for another number of rows or columns.
  void read(const std::string& name, const Tensor& into) const;
  /// The same for rows [first, first + into.rows).
  void read_rows(const std::string& name, int64_t first, const Tensor& into) const;
  /// See MappedFile::release.
  void release() const { file_.release(); }

 private:
  void parse_header();
  /// How many tensors there are and the names of the first, for messages.
  std::string names() const;

  MappedFile file_;
  std::span<const std::byte> data_;
  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// A tensor to be written.
struct SafetensorsItem {
  std::string name;
  std::vector<int64_t> shape;  ///< its product is the tensor's size
  Tensor tensor;               ///< rows may be strided; padding is not written
  DType stored = DType::f32;   ///< the tensor's own type, or bf16 for an f32 tensor, or f32 for a bf16 tensor

  uint64_t bytes() const { return static_cast<uint64_t>(tensor.size()) * size_of(stored); }
};

inline const std::map<std::string, std::string> safetensors_metadata = {{"format", "pt"}};

/// Writes a whole file, with the bytes that the reference writer gives: tensors by element type, widest first, then by
/// name, whatever the order in which they are made. The caller commits it. Throws Error{resource} when the disk is
/// full.
void write_safetensors(AtomicFile& file, std::span<const TensorGroup> groups,
                       const std::map<std::string, std::string>& metadata = safetensors_metadata,
                       const BytesProgress& progress = {});
/// Tensors in memory to a file that is there whole or not at all. Throws Error{resource}, also when the directory is
/// missing.
void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsItem>& items,
                       const std::map<std::string, std::string>& metadata = safetensors_metadata);

/// Overwrites the metadata of a file with one of equal length, in place: for what is known only when the data can be
/// read, of a file that nobody else has seen yet. Throws Error{resource}.
void replace_safetensors_metadata(const std::filesystem::path& path,
                                  const std::map<std::string, std::string>& metadata);

}  // namespace nibble
