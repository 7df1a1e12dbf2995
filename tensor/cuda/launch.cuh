// The GPU's part of kernel.hpp.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "tensor/cuda/check.cuh"
#include "tensor/cuda/fragments.hpp"
#include "tensor/dtype.hpp"

namespace nibble::cuda {

/// Number of the thread in its warp.
__device__ inline unsigned lane() { return threadIdx.x % 32; }

/// The value of another lane; all lanes of the warp call it.
template <class T>
__device__ T of_lane(T value, unsigned from) {
  return __shfl_sync(0xffffffffu, value, static_cast<int>(from));
}

/// What lanes of a warp read and write before, is before all that they do behind it, which an exchange of values does
/// not promise; all lanes of the warp call it.
__device__ inline void order_lanes() { __syncwarp(); }

/// p, which points into the device's memory and not a block's: said where a kernel has read it from a table, so that
/// what is done with it is told nothing else.
template <class T>
__device__ T* global(T* p) {
  __builtin_assume(__isGlobal(p));
  return p;
}

/// Integers, whose sum has no order.
__device__ inline void atomic_add(unsigned long long* to, unsigned long long count) { atomicAdd(to, count); }

/// The block's memory, as many bytes as the launch said.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char nibble_block_memory[];
  return reinterpret_cast<T*>(nibble_block_memory);
}

/// Before a loop over elements of a small array, whose elements are registers only where their numbers are constants.
#define NIBBLE_UNROLL _Pragma("unroll")

/// Two numbers in one word, `low` in its lower half; rounded to nearest.
__device__ inline uint32_t bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// c += a b by tensor cores; all lanes of the warp call it.
__device__ inline void mma(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3])
      : "r"(a.pairs[0]), "r"(a.pairs[1]), "r"(a.pairs[2]), "r"(a.pairs[3]), "r"(b.pairs[0]), "r"(b.pairs[1]));
}

__device__ inline uint32_t address_in_block(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/// Four 8 x 8 matrices from the block's memory, or their transposes: lane l says where row l % 8 of matrix l / 8 lies,
/// a multiple of 16 bytes. All lanes of the warp call it.
template <bool transposed>
__device__ Fragment<4> load_matrices(const bf16* row) {
  Fragment<4> matrices;
  uint32_t(&pairs)[4] = matrices.pairs;
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(address_in_block(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(address_in_block(row))
                 : "memory");
  return matrices;
}

/// Begins to copy 4 or 16 bytes, aligned as they are long, to the block's memory; zeros where `from` is not present.
template <int bytes>
__device__ void copy_async(void* shared, const void* from, bool present) {
  static_assert(bytes == 4 || bytes == 16);
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address_in_block(shared)), "l"(from),
                 "r"(present ? bytes : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address_in_block(shared)), "l"(from),
                 "r"(present ? bytes : 0)
                 : "memory");
}
/// What the thread has begun to copy since the last call is one group.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until all but the newest `groups` of the thread's copies are there; other threads see them after __syncthreads().
template <int groups>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

/// Raises `largest` to `value`, among all threads of the device. As integers, floats that are not negative ascend, and
/// negative ones descend behind them.
__device__ inline void atomic_max(float* largest, float value) {
  if (!signbit(value)) atomicMax(reinterpret_cast<int*>(largest), __float_as_int(value));
  else atomicMin(reinterpret_cast<unsigned*>(largest), __float_as_uint(value));
}

/// The arguments are copied now, the kernel runs when its turn comes.
template <class... Parameters>
void launch(Queue& queue, const dim3& blocks, const dim3& threads, size_t shared_bytes, void (*kernel)(Parameters...),
            std::type_identity_t<Parameters>... arguments) {
  // Of the 48 KiB that a block has without being asked for, arrays of the kernel's own take some: a few KiB at most.
  constexpr size_t without_asking = 32 << 10;
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > without_asking)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "memory of a block");
  void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
  check(cudaLaunchKernel(function, blocks, threads, pointers, shared_bytes, stream_of(queue)), "launch of a kernel");
}

}  // namespace nibble::cuda
