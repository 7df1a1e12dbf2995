// The GPU's part of kernel.hpp.
#pragma once

#include <cuda_runtime.h>

#include "tensor/cuda/check.cuh"

namespace nibble::cuda {

/// Number of the thread in its warp.
__device__ inline unsigned lane() { return threadIdx.x % 32; }

/// The value of another lane; all lanes of the warp call it.
template <class T>
__device__ T of_lane(T value, unsigned from) {
  return __shfl_sync(0xffffffffu, value, static_cast<int>(from));
}

/// The block's memory, as many bytes as the launch said.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char nibble_block_memory[];
  return reinterpret_cast<T*>(nibble_block_memory);
}

/// Before a loop over elements of a small array, whose elements are registers only where their numbers are constants.
#define NIBBLE_UNROLL _Pragma("unroll")

/// The arguments are copied now, the kernel runs when its turn comes.
template <class... Parameters>
void launch(Queue& queue, const dim3& blocks, const dim3& threads, size_t shared_bytes, void (*kernel)(Parameters...),
            std::type_identity_t<Parameters>... arguments) {
  constexpr size_t without_asking = 48 << 10;
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > without_asking)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "memory of a block");
  void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
  check(cudaLaunchKernel(function, blocks, threads, pointers, shared_bytes, stream_of(queue)), "launch of a kernel");
}

}  // namespace nibble::cuda
