// Errors of the CUDA runtime, and what a queue is there.
#pragma once

#include <cuda_runtime.h>

#include "tensor/cuda/device.hpp"

namespace nibble::cuda {

struct Queue::Native {
  cudaStream_t stream = nullptr;
  cudaEvent_t reached = nullptr;  ///< recorded where another queue waits for this one
};

/// Throws Error{resource} for a failed call; `what` was asked for.
void check(cudaError_t status, const char* what);

}  // namespace nibble::cuda
