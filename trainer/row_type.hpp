// How files store the rows of matrices: plain elements, or blocks of elements along a row.
//
// One table for all: safetensors holds plain elements by the same names, GGUF both. Names, numbers and blocks are those
// of ggml (ggml.h, ggml-common.h). Not for: formats that put scales into tensors of their own, which are groups of
// tensors (tensor_group.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "trainer/tensor_group.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

struct RowType {
  std::string_view name;  ///< "BF16", "Q8_0", as both containers spell it
  int64_t block = 1;      ///< elements that are stored together; rows are whole blocks
  uint64_t block_bytes = 0;
  uint32_t gguf_type = 0;  ///< enum ggml_type
  uint32_t file_type = 0;  ///< enum llama_ftype of a file whose matrices are mostly of this type
  float largest = 0;       ///< values beyond it become infinite
  void (*encode)(std::span<const float> values, std::byte* bytes) = nullptr;
  void (*decode)(const std::byte* bytes, std::span<float> values) = nullptr;

  uint64_t bytes_of(int64_t elements) const { return static_cast<uint64_t>(elements / block) * block_bytes; }
};

/// Null for an unknown number.
const RowType* find_row_type(uint32_t gguf_type);
/// One that is in the table.
const RowType& row_type(std::string_view name);

/// A parameter as one tensor, read and encoded some rows at a time. `head_dim` above 0: the rows of each head, which
/// are in rotate-half order, are written in interleaved order (row 2 j + b is row b head_dim / 2 + j). Throws
/// Error{configuration} for rows that are no whole blocks; its `write` Error{numerics} for a value beyond the largest.
/// `source` must outlive the group.
TensorGroup encode_rows(WeightSource& source, size_t parameter, std::string name, std::vector<int64_t> shape,
                        const RowType& type, int64_t head_dim = 0);

}  // namespace nibble
