// A matrix that safetensors hold as codes and scales of compressed-tensors, read as numbers.
//
// The tensors' names and element types tell the format. Not for: whole folders (huggingface_weights.hpp).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trainer/packed_format.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {

class PackedMatrix {
 public:
  /// The file that holds a tensor; null where none does.
  using Find = std::function<const SafetensorsFile*(const std::string& tensor)>;

  /// The matrix [rows, cols] of a parameter ("....weight"); nothing where it is stored as plain numbers, or not at all.
  /// Scales that are F32 in the table of packed_format.hpp may be BF16 or F16, as llm-compressor writes them.
  /// Throws Error{checkpoint} for tensors that lack a part, or have other shapes or element types.
  static std::optional<PackedMatrix> find(const Find& file_of, const std::string& parameter, int64_t rows,
                                          int64_t cols);

  /// Names of the tensors that it is made of.
  const std::vector<std::string>& tensors() const { return tensors_; }
  /// Rows [first, first + into.rows) into f32, or bf16 rounded to nearest even.
  void read_rows(int64_t first, const Tensor& into) const;

 private:
  PackedFormat format_ = PackedFormat::nvfp4;
  std::vector<std::string> tensors_;
  std::span<const std::byte> codes_, scales_;      ///< of all rows; scales empty where the tensor has one
  std::shared_ptr<const OwnedTensor> f32_scales_;  ///< those that are stored in 16 bits
  size_t code_bytes_ = 0, scale_bytes_ = 0;        ///< of a row
  float tensor_scale_ = 1;
};

}  // namespace nibble
