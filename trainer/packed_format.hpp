// The weight formats of compressed-tensors: which quantizers they hold, and which tensors stand for a matrix.
//
// A matrix W [out, in] of a module X becomes codes and scales, row-major:
//   nvfp4  X.weight_packed U8 [out, in/2], X.weight_scale F8_E4M3 [out, in/16], X.weight_global_scale F32 [1]
//          w = code * (scale / global): the global scale on disk is a divisor
//   mxfp4  X.weight_packed U8 [out, in/2], X.weight_scale U8 [out, in/32]: w = code * 2^(scale - 127)
//   fp8    X.weight F8_E4M3 [out, in], X.weight_scale F32 [1] or [out, 1]: w = code * scale
//   int8   X.weight I8 [out, in], X.weight_scale likewise
// Two codes of four bits share a byte, the even column low. Source: the compressed-tensors package (quant_scheme.py and
// the compressors of its formats). Not for: the bytes (packed_weights.hpp), config.json (packed_config.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/quantizer.hpp"

namespace nibble {

enum class PackedFormat { nvfp4, mxfp4, fp8, int8 };
inline constexpr PackedFormat packed_formats[] = {PackedFormat::nvfp4, PackedFormat::mxfp4, PackedFormat::fp8,
                                                  PackedFormat::int8};

/// "nvfp4", as --quantize names it.
std::string_view name(PackedFormat format);
/// Nothing for another name.
std::optional<PackedFormat> packed_format_named(std::string_view name);

/// The format that holds codes and scales of this quantizer as they are; nothing where none does (other elements or
/// scales, a shifted grid, learned steps, random rounding ...).
std::optional<PackedFormat> format_of(const Quantizer& quantizer);

/// How weights that training multiplied otherwise are rounded to nearest: the largest value of a block, row or tensor
/// on the largest of the format. FP8 and INT8 have a scale for each row.
Quantizer default_quantizer(PackedFormat format);

/// "X" of a parameter "X.weight".
std::string module_of(const std::string& parameter);

/// A tensor of a file.
struct PackedTensor {
  std::string suffix;  ///< of the module's name: "weight_packed"
  std::string dtype;   ///< as safetensors names it
  std::vector<int64_t> shape;

  bool operator==(const PackedTensor&) const = default;
};

/// What stands for a matrix [rows, cols] of a quantizer that has a format: codes, scales, and the global scale where
/// there is one, in this order.
std::vector<PackedTensor> packed_tensors(const Quantizer& quantizer, int64_t rows, int64_t cols);

/// Throws Error{configuration} where blocks do not divide the input features; `where` names the matrix.
void require_packable(PackedFormat format, int64_t cols, const std::string& where);

}  // namespace nibble
