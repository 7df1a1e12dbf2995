#include "trainer/packed_matrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "quant/quantizers.hpp"
#include "trainer/packed_weights.hpp"

namespace nibble {
namespace {

/// One quantizer for each way in which tensors of a matrix may lie.
constexpr std::array layouts = {quantizers::nvfp4,
                                quantizers::mx(formats::e2m1, quantizers::MxScale::floor),
                                quantizers::per_row(formats::e4m3),
                                quantizers::per_tensor(formats::e4m3),
                                quantizers::per_row(formats::int8),
                                quantizers::per_tensor(formats::int8)};

std::string listed(const std::vector<PackedTensor>& parts) {
  std::string text;
  for (const PackedTensor& part : parts)
    text += fmt::format("{}{} {} {}", text.empty() ? "" : ", ", part.suffix, part.dtype, to_string(part.shape));
  return text;
}

/// Whether `stored` is the tensor `wanted`, or holds its f32 scales in 16 bits.
bool stands_for(const PackedTensor& stored, const PackedTensor& wanted) {
  const bool narrow = wanted.dtype == "F32" && (stored.dtype == "BF16" || stored.dtype == "F16");
  return stored.suffix == wanted.suffix && stored.shape == wanted.shape && (narrow || stored.dtype == wanted.dtype);
}

}  // namespace

std::optional<PackedMatrix> PackedMatrix::find(const Find& file_of, const std::string& parameter, int64_t rows,
                                               int64_t cols) {
  const std::string module = module_of(parameter) + ".";
  std::vector<PackedTensor> seen;
  for (const char* suffix : {"weight", "weight_packed", "weight_scale", "weight_global_scale"})
    if (const SafetensorsFile* const file = file_of(module + suffix)) {
      const SafetensorsEntry& entry = file->entry(module + suffix);
      seen.push_back({suffix, entry.dtype, entry.shape});
    }
  if (seen.empty() || (seen.size() == 1 && seen[0].suffix == "weight")) return {};
  for (const Quantizer& quantizer : layouts) {
    if (quantizer.blocks() && cols % quantizer.group != 0) continue;
    const std::vector<PackedTensor> parts = packed_tensors(quantizer, rows, cols);
    if (!std::ranges::equal(seen, parts, stands_for)) continue;
    PackedMatrix matrix;
    matrix.format_ = *format_of(quantizer);
    const auto bytes = [&](const PackedTensor& part) -> std::span<const std::byte> {
      const std::string tensor = module + part.suffix;
      const SafetensorsFile& file = *file_of(tensor);
      const SafetensorsEntry& entry = file.entry(tensor);
      if (entry.dtype == part.dtype) return file.bytes(tensor);
      const auto wide = std::make_shared<OwnedTensor>(DType::f32, entry.rows(), entry.cols());
      file.read(tensor, *wide);
      matrix.f32_scales_ = wide;
      return std::as_bytes(std::span(wide->view().as<float>(), static_cast<size_t>(wide->view().size())));
    };
    for (const PackedTensor& part : parts) matrix.tensors_.push_back(module + part.suffix);
    const auto of_rows = static_cast<size_t>(rows);
    matrix.codes_ = bytes(parts[0]);
    matrix.code_bytes_ = matrix.codes_.size() / of_rows;
    if (quantizer.extent != Extent::tensor) {
      matrix.scales_ = bytes(parts[1]);
      matrix.scale_bytes_ = matrix.scales_.size() / of_rows;
    }
    if (quantizer.needs_tensor_statistic())
      std::memcpy(&matrix.tensor_scale_, bytes(parts.back()).data(), sizeof(float));
    // What a file brings beside its weights, for readers that quantize activations.
    for (const char* suffix : {"input_global_scale", "input_scale"})
      if (file_of(module + suffix)) matrix.tensors_.push_back(module + suffix);
    return matrix;
  }
  std::string allowed;
  for (const Quantizer& quantizer : layouts)
    if (!quantizer.blocks() || cols % quantizer.group == 0)
      allowed += fmt::format("{}{}", allowed.empty() ? "" : "; or ", listed(packed_tensors(quantizer, rows, cols)));
  throw Error({.kind = ErrorKind::checkpoint,
               .what = "a matrix is quantized in a way that is not read, or lacks a part",
               .where = fmt::format("tensors {}*", module),
               .seen = listed(seen),
               .allowed = allowed,
               .next = "fetch the model's unquantized version (F32, BF16 or F16)"});
}

void PackedMatrix::read_rows(int64_t first, const Tensor& into) const {
  const auto skipped = static_cast<size_t>(first), rows = static_cast<size_t>(into.rows);
  const StoredRows stored{codes_.subspan(skipped * code_bytes_, rows * code_bytes_),
                          scales_.subspan(skipped * scale_bytes_, rows * scale_bytes_), tensor_scale_};
  if (into.dtype == DType::f32) return unpack_rows(format_, stored, into);
  const OwnedTensor values(DType::f32, into.rows, into.cols);
  unpack_rows(format_, stored, values);
  for (int64_t i = 0; i < into.rows; ++i)
    for (int64_t j = 0; j < into.cols; ++j) into.row<bf16>(i)[j] = bf16(values.view().row<float>(i)[j]);
}

}  // namespace nibble
