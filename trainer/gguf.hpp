// The GGUF container, version 3: key-value metadata and named tensors in one file.
//
// Layout: ggml's docs/gguf.md. Dimensions are stored innermost first; here shapes are row-major as everywhere else.
// Not for: what a model's keys and names are (gguf_model.hpp), or how blocks are encoded (row_type.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "tensor/files.hpp"
#include "trainer/row_type.hpp"
#include "trainer/tensor_group.hpp"

namespace nibble {

using GgufValue = std::variant<uint32_t, float, double, bool, std::string, std::vector<std::string>, std::vector<float>,
                               std::vector<int32_t>>;
/// Keys in the order in which they are written.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// Tensors lie in the order of the groups, on multiples of this.
inline constexpr uint64_t gguf_alignment = 32;

/// Writes a whole file, whose tensors' dtypes are names of row types. The caller commits it.
/// Throws Error{resource} when the disk is full.
void write_gguf(AtomicFile& file, const GgufMetadata& metadata, std::span<const TensorGroup> groups,
                const BytesProgress& progress = {});

struct GgufEntry {
  const RowType* type = nullptr;
  std::vector<int64_t> shape;  ///< row-major
  uint64_t begin = 0;          ///< of its bytes in the file

  int64_t cols() const { return shape.back(); }
};

/// A file of those that write_gguf writes, mapped.
class GgufFile {
 public:
  /// Checks all but the data. Throws Error{checkpoint} for a file that is none, another version, value or element types
  /// that Nibble does not write, and tensors that do not lie within the file.
  explicit GgufFile(const std::filesystem::path& path);

  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::map<std::string, GgufEntry>& tensors() const { return tensors_; }
  /// Throws Error{checkpoint} when there is none.
  const GgufEntry& tensor(const std::string& name) const;
  /// Decodes a row of a tensor.
  void read_row(const GgufEntry& tensor, int64_t row, std::span<float> values) const;
  /// See MappedFile::release.
  void release() const { file_.release(); }

  const std::filesystem::path& path() const { return file_.path(); }
  /// Where the value of a number lies in the file.
  uint64_t value_offset(const std::string& key) const { return value_offsets_.at(key); }

 private:
  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, uint64_t> value_offsets_;
  std::map<std::string, GgufEntry> tensors_;
};

/// Overwrites values that are doubles, in place: what is known only when the data can be read, of a file that nobody
/// else has seen yet. Throws Error{resource}.
void replace_gguf_values(const std::filesystem::path& path, const std::map<std::string, double>& values);

}  // namespace nibble
