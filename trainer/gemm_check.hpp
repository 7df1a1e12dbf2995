// Matrix products with a known answer.
//
// Not for speed (tensor/gemm.hpp measures that).
#pragma once

#include <cstdint>

#include "tensor/dtype.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// How many elements are wrong of products, with and without transposed operands, of whole numbers so small that
/// operands and sums are exact in `operands` (f32 or bf16) and in any order of summing.
int64_t wrong_elements(Stream& stream, DType operands);

}  // namespace nibble
