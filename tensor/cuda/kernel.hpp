// What kernels are written in: CUDA C++, compiled by nvcc for GPUs and by the host's compiler for the emulation.
//
// A kernel is a __global__ function of threadIdx, blockIdx, blockDim, gridDim, __shared__ and __syncthreads(); what
// else it asks of CUDA stands below, as functions that both have. Results depend on no scheduling: sums have a fixed
// order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "tensor/cuda/device.hpp"

#if defined(__CUDACC__)
#include "tensor/cuda/launch.cuh"
#else
#include "tensor/cuda/emulation/launch.hpp"
#endif

namespace nibble::cuda {

inline constexpr unsigned warp_lanes = 32;

/// Elements that one load or store moves together: 16 bytes where it has so many.
template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T values[n];

  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

/// Of all lanes of a warp, in the order of a tree: each gets the same bits.
template <class T, class Combine>
__device__ T over_warp(T value, Combine combine) {
  for (unsigned distance = warp_lanes / 2; distance > 0; distance /= 2)
    value = combine(value, of_lane(value, lane() ^ distance));
  return value;
}

/// Of all threads of a block, whose size is a power of two, a warp at least; each gets the same bits. `shared` has an
/// element for each warp.
template <class T, class Combine>
__device__ T over_block(T value, T* shared, Combine combine) {
  value = over_warp(value, combine);
  const unsigned warps = blockDim.x / warp_lanes, warp = threadIdx.x / warp_lanes;
  __syncthreads();  // whoever reads `shared` for an earlier value has done so
  if (lane() == 0) shared[warp] = value;
  __syncthreads();
  value = shared[0];
  for (unsigned i = 1; i < warps; ++i) value = combine(value, shared[i]);
  return value;
}

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

}  // namespace nibble::cuda
