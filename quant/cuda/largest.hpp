// The largest magnitude of a matrix, of which the blocks of a kernel have each seen a part: maxima have no order.
//
// Not for: what a rotation makes of the matrix (tensor_statistic).
#pragma once

#include "quant/arithmetic.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/scalar.hpp"

namespace nibble::cuda {

/// Of a kernel that looks for it.
inline constexpr unsigned most_blocks_of_largest = 2048;

/// Room for a number of each block, until the stream's next call.
float* largest_of_each_block(Stream& stream);
/// The largest of these, NaN where one is.
Scalar largest_of_blocks(Stream& stream, const float* of_blocks, unsigned blocks);

struct LargerMagnitude {
  __device__ float operator()(float a, float b) const { return larger_magnitude(a, b); }
};

/// Leaves the largest of what the block's threads have seen. All of them call it, once; blocks are a row of threads.
__device__ inline void leave_largest(float seen, float* of_blocks) {
  __shared__ float shared[warp_lanes];
  const float most = over_block(seen, shared, LargerMagnitude());
  if (threadIdx.x == 0) of_blocks[blockIdx.x] = most;
}

}  // namespace nibble::cuda
