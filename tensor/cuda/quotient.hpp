// Division of numbers of elements, which have 64 bits and are small all the same.
//
// Not for: divisors that are known to the compiler.
#pragma once

#include <cstdint>

#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda {

/// dividend / divisor, of numbers that are not negative. One of 64 bits costs a GPU as much as an update of an element
/// does: it has no instruction for that.
__device__ inline int64_t quotient(int64_t dividend, int64_t divisor) {
  if ((dividend | divisor) >> 32 != 0) return dividend / divisor;
  return static_cast<uint32_t>(dividend) / static_cast<uint32_t>(divisor);
}

}  // namespace nibble::cuda
