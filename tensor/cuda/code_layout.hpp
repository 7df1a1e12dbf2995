// Bytes of operands on their way into products, turned and with zeros around them (coded_gemm.hpp has the codes of
// FP8 and FP4).
#pragma once

#include <cstdint>

#include "tensor/stream.hpp"

namespace nibble::cuda {

/// to[to_rows, to_stride], packed rows of a multiple of 16, becomes [rows, depth] and zeros around it, of `from`
/// [rows, depth] or, transposed, [depth, rows].
void lay_out_bytes(Stream& stream, const uint8_t* from, int64_t from_stride, bool transposes, int64_t rows,
                   int64_t depth, uint8_t* to, int64_t to_rows, int64_t to_stride);

}  // namespace nibble::cuda
