// A matrix product as loops over blocks that fit the caches, around a tile kernel.
//
// Every sum runs over the reduction axis in order, in blocks whose length the kernel alone sets: results do not depend
// on the number of threads or on how C is cut among them.
#pragma once

#include "tensor/gemm.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"
#include "tensor/tile_kernel.hpp"

namespace nibble {

/// c[m,n] = op(a) op(b), scaled, + addend; types, addends and scaling as gemm() allows them.
struct Product {
  Tensor a;
  bool transpose_a = false;  ///< a is [k,m]
  Tensor b;
  bool transpose_b = false;  ///< b is [n,k]
  Tensor c;
  Tensor addend{};  ///< f32 [m,n], c itself among them; empty: zeros
  Scaling scaling{};

  int64_t depth() const { return transpose_a ? a.rows : a.cols; }
};

/// What each thread that multiplies keeps for its blocks.
size_t packed_gemm_scratch_bytes(const TileKernel& kernel);

/// With all threads of the stream.
void packed_gemm(Stream& stream, const TileKernel& kernel, const Product& product);
/// On the calling thread.
void packed_gemm_in_task(const TileKernel& kernel, const Product& product);

}  // namespace nibble
