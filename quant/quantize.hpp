// Quantization of whole matrices: from x to the operand that a product multiplies.
//
// One kernel for all quantizers and rotations (quantizer.hpp): their fields steer it, nothing in it knows a paper.
// A Hadamard matrix and the signs before it are the host's in calls of every stream. Not for: which operand of a layer
// gets which quantizer (recipe.hpp).
#pragma once

#include <span>

#include "quant/hadamard.hpp"
#include "quant/quantizer.hpp"
#include "tensor/random.hpp"
#include "tensor/scalar.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// The axis of a matrix over which its product sums; the other one is called outer.
enum class Axis { cols, rows };

/// What quantize() writes besides values; what is empty, values too, is not written. All row-major in [outer, reduction
/// axis], whose length is then a multiple of 8.
struct QuantizedParts {
  Tensor codes{};   ///< u8 [outer, depth * bits / 8]: little-endian bit fields
  Tensor scales{};  ///< u8 [outer, depth / group]: e8m0 or e4m3 codes of blocks
  Tensor mask{};    ///< u8 [outer, depth / 8], lowest bit first: 1 passes a gradient on
};

/// A matrix as a product reads it: element (i, j) is values(i, j) * factor * row_scale(i) * col_scale(j).
struct Operand {
  Tensor values{};  ///< f32, bf16, or i8: codes that stand for themselves plus the format's offset
  Scalar factor = 1;
  Tensor row_scale{};      ///< f32 [1, rows]; empty: ones
  Tensor col_scale{};      ///< f32 [1, cols]; empty: ones
  QuantizedParts parts{};  ///< where there are no values: codes and block scales
  Axis axis = Axis::cols;  ///< along which these run
};

struct Quantization {
  Quantizer quantizer{};
  Axis axis = Axis::cols;
  const Hadamard* hadamard = nullptr;           ///< of the reduction axis, in blocks of its order; null: none
  std::span<const float> signs{};               ///< +-1 of a block, before the transform; empty: none
  RandomStream rounding{0, Purpose::rounding};  ///< 16 bits for each element; row-major in [outer, reduction axis]
  RandomStream scale_rounding{0, Purpose::scale_rounding};  ///< or of a block's second grid, where it may choose one
  uint32_t part = 0;                                        ///< of those streams: which micro-batch
};

/// Throws Error{internal} where the reduction axis of x ends within a block, correction or rotation: part of one would
/// be read, and written, behind the matrix.
void check_length(const Tensor& x, const Quantization& how);

/// What happened to the elements of one call.
struct QuantizationCounts {
  int64_t elements = 0;
  int64_t clipped = 0;  ///< beyond the format's largest magnitude
  int64_t masked = 0;
};

/// The statistic over the whole rotated matrix, for quantizers that need it first (needs_tensor_statistic); max |x|.
/// NaN where an element is.
Scalar tensor_statistic(Stream& stream, const Operand& x, const Quantization& how);

/// Quantizes x along how.axis (whole blocks, corrections and rotations, else Error), with `statistic` of the whole
/// tensor where one is needed: its step where it is learned. values (f32, bf16, or i8 for formats without block scales)
/// and parts are written; `scale` (f32, [1, outer]) is written for Extent::row. Returns what multiplies values. A NaN
/// or infinity makes at least its block NaN. Without a quantizer only the rotation happens.
Operand quantize(Stream& stream, const Operand& x, const Quantization& how, const Scalar& statistic,
                 const Tensor& values, const Tensor& scale = {}, const QuantizedParts& parts = {},
                 QuantizationCounts* counts = nullptr);

/// What quantize() is told besides x.
struct QuantizeArguments {
  Quantization how;
  Scalar statistic{};
  Tensor values{}, scale{};
  QuantizedParts parts{};
};

/// The values (bf16, f32 or i8) that `parts` of an earlier call along `axis` stand for, as that call wrote them.
void restore(Stream& stream, const Quantizer& quantizer, const QuantizedParts& parts, const Tensor& values,
             Axis axis = Axis::cols);

/// y = (x .* mask) R^T along `axis`, where R is the rotation of a Quantization; mask (of QuantizedParts, for
/// Axis::cols) may be empty, and hadamard null. y may be x.
void unrotate(Stream& stream, const Tensor& x, Axis axis, const Hadamard* hadamard, std::span<const float> signs,
              const Tensor& mask, const Tensor& y);

/// How far an operand (values f32 or bf16) is from x, both rotated: sums over all elements, in double.
struct OperandError {
  double squared_error = 0;  ///< of x - q
  double squared = 0;        ///< of x
  double squared_operand = 0;
  double product = 0;      ///< of x q
  int64_t underflows = 0;  ///< q = 0 where x is not
  int64_t elements = 0;
};
OperandError sum_of(std::span<const OperandError> parts);
OperandError operand_error(Stream& stream, const Operand& x, const Quantization& how, const Operand& quantized);

/// from (f32) -= x, whose columns have no scales of their own.
void subtract(Stream& stream, const Operand& x, const Tensor& from);

}  // namespace nibble
