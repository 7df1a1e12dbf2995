// Counts and places among the lanes of a warp and the threads of a block: integers, whose sums have no order.
//
// Not for: sums of floats, whose order is fixed (kernel.hpp).
#pragma once

#include "tensor/cuda/kernel.hpp"

#if !defined(__CUDACC__)
#include <bit>
#endif

namespace nibble::cuda {

// All lanes of the warp call these.

#if defined(__CUDACC__)
/// Bit i is what lane i says.
__device__ inline uint32_t votes(bool vote) { return __ballot_sync(0xffffffffu, vote); }
__device__ inline int32_t sum_of_lanes(int32_t value) { return __reduce_add_sync(0xffffffffu, value); }
__device__ inline int32_t largest_of_lanes(int32_t value) { return __reduce_max_sync(0xffffffffu, value); }
__device__ inline int32_t smallest_of_lanes(int32_t value) { return __reduce_min_sync(0xffffffffu, value); }
#else
inline uint32_t votes(bool vote) {
  const emulation::Exchanged<bool> of(vote);
  uint32_t bits = 0;
  for (unsigned from = 0; from < warp_lanes; ++from) bits |= uint32_t{of[from]} << from;
  return bits;
}
template <class Join>
int32_t over_lanes(int32_t value, Join join) {
  const emulation::Exchanged<int32_t> of(value);
  int32_t joined = of[0];
  for (unsigned from = 1; from < warp_lanes; ++from) joined = join(joined, of[from]);
  return joined;
}
inline int32_t sum_of_lanes(int32_t value) { return over_lanes(value, Plus()); }
inline int32_t largest_of_lanes(int32_t value) {
  return over_lanes(value, [](int32_t a, int32_t b) { return a > b ? a : b; });
}
inline int32_t smallest_of_lanes(int32_t value) {
  return over_lanes(value, [](int32_t a, int32_t b) { return a < b ? a : b; });
}
#endif

/// The sum over all lanes up to the calling one, itself too.
template <class T>
__device__ T sum_up_to_lane(T value) {
  for (unsigned distance = 1; distance < warp_lanes; distance *= 2) {
    const T lower = of_lane(value, (lane() - distance) % warp_lanes);
    if (lane() >= distance) value += lower;
  }
  return value;
}

// And any lane these.

#if defined(__CUDACC__)
__device__ inline int ones_in(uint32_t bits) { return __popc(bits); }
/// In the block's memory or the device's.
__device__ inline void count_one(uint32_t* count) { atomicAdd(count, 1u); }
#else
inline int ones_in(uint32_t bits) { return std::popcount(bits); }
inline void count_one(uint32_t* count) { std::atomic_ref(*count).fetch_add(1, std::memory_order_relaxed); }
#endif

/// Of the threads of a block.
template <class T>
struct SumBefore {
  T before, total;
};

/// The sum over the threads before the calling one, and over all. All threads of the block call it, which are whole
/// warps; `shared` has an element for each of them.
template <class T>
__device__ SumBefore<T> sum_before_thread(T value, T* shared) {
  const unsigned warps = blockDim.x / warp_lanes, warp = threadIdx.x / warp_lanes;
  const T up_to = sum_up_to_lane(value);
  __syncthreads();  // whoever reads `shared` for an earlier value has done so
  if (lane() == warp_lanes - 1) shared[warp] = up_to;
  __syncthreads();
  SumBefore<T> sum{up_to - value, T{}};
  for (unsigned i = 0; i < warps; ++i) {
    if (i < warp) sum.before += shared[i];
    sum.total += shared[i];
  }
  return sum;
}

}  // namespace nibble::cuda
