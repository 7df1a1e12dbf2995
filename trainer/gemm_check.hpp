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

/// The same of codes, in each format that the stream's products take: none on the host. Blocks have scales of 1 and 2;
/// what has no blocks is multiplied once more under scales of rows and columns.
int64_t wrong_elements_of_codes(Stream& stream);

}  // namespace nibble
