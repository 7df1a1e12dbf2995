// What Adam's relatives have in common.
#pragma once

#include <cmath>

#include "optim/kernels.hpp"
#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda {

__device__ inline float second_moment(float v, float g, const AdamWFactors& factors) {
  return v * factors.beta2 + factors.one_minus_beta2 * g * g;
}

__device__ inline float adam_divisor(float v, const AdamWFactors& factors) {
  return std::sqrt(v) / factors.sqrt_bias_correction2 + factors.epsilon;
}

}  // namespace nibble::cuda
