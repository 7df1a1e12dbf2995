// Products of matrices in tiles of a fixed size, each by one thread, so that no number of threads changes a bit.
// On a device each is one product of tensor/gemm.hpp, which no threads cut.
//
// Not for: the products of a model's layers (tensor/gemm.hpp).
#pragma once

#include <cstdint>

#include "tensor/gemm.hpp"

namespace nibble {

/// c = a aᵀ, or aᵀ a where a is to be transposed: symmetric, so tiles above the diagonal are copied from those below.
/// a f32 or bf16, c f32.
void square_product(Stream& stream, const Tensor& a, Transpose transpose, const Tensor& c);

/// c = op(a) op(b) + addend; a and b f32 or bf16, c f32, the addend absent, c itself or another f32 matrix.
void tiled_product(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                   const Tensor& c, const Tensor& addend = {});

/// What they take beside operands whose sides are at most `longest` (tensor/gemm.hpp).
size_t tile_product_scratch_bytes(const Stream& stream, DType operands, int64_t longest);

}  // namespace nibble
