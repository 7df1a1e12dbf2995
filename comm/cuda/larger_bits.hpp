// The larger of two patterns of bits: of magnitudes, the order of the numbers, with what is not finite above them all.
#pragma once

#include <cstdint>

#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda {

struct LargerBits {
  __device__ uint32_t operator()(uint32_t a, uint32_t b) const { return a > b ? a : b; }
};

}  // namespace nibble::cuda
