// Rows of a matrix as codes and scales of a compressed-tensors format, and back.
//
// The bytes are those of quant/: what a training run's forward product multiplies, if the rows are its working copy and
// the quantizer is its recipe's. Not for: which quantizer (packing_plan.hpp), files.
#pragma once

#include <cstddef>
#include <span>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"
#include "trainer/packed_format.hpp"

namespace nibble {

/// Of rows of a matrix, packed; empty where the format has none.
struct PackedRows {
  OwnedTensor codes;       ///< u8 [rows, bytes of a row]
  OwnedTensor scales;      ///< u8 [rows, blocks of a row], the bytes of block scales
  OwnedTensor row_scales;  ///< f32 [1, rows]
  float tensor_scale = 1;  ///< what the whole matrix is multiplied with
};

/// The largest magnitude of rows (f32 or bf16). Of a matrix in parts, the largest of all is its `magnitude` below.
/// Throws Error{numerics} naming `where` when an element is not finite.
float packed_magnitude(Stream& stream, const Tensor& rows, const std::string& where);

/// Packs rows of a matrix whose largest magnitude is given, for a quantizer that has a format; of squares, whole ones.
PackedRows pack_rows(Stream& stream, const Quantizer& quantizer, const Tensor& rows, float magnitude);

/// What a file says of the tensor's scale: of nvfp4 its reciprocal, else itself. Throws Error{numerics} naming `where`
/// where the reciprocal is infinite: the largest magnitude is below 1e-34.
float stored_tensor_scale(PackedFormat format, float tensor_scale, const std::string& where);

/// The stored bytes of rows [rows, cols], little-endian, as the file has them.
struct StoredRows {
  std::span<const std::byte> codes;
  std::span<const std::byte> scales;  ///< of blocks a byte each, of rows an f32 each; else empty
  float tensor_scale = 1;             ///< as in the file; 1 where there is none
};

/// into [rows, cols] (f32) = what the format says of them, each operation rounded to f32 as the compressed-tensors
/// package does: code times scale, of nvfp4 times (scale / global scale).
void unpack_rows(PackedFormat format, const StoredRows& stored, const Tensor& into);

}  // namespace nibble
