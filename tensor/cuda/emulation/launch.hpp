// The emulation's part of kernel.hpp: CUDA's words for host compilers.
//
// A block's threads are fibers of one host thread, which take turns where they wait for each other; blocks are shared
// among the host's threads. Threads of a block that wait for different things, which a GPU leaves undefined, are an
// error. Not for: speed.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <type_traits>

#include "tensor/cuda/device.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
/// Of a block: its fibers have one host thread.
#define __shared__ static thread_local

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace nibble::cuda {

namespace emulation {

struct Position {
  dim3 thread, block;
};
/// Of the device thread that runs on this host thread.
inline thread_local Position position;
inline thread_local dim3 block_size, grid_size;

void wait_for_block();
/// Where the calling thread's warp exchanges values now, 16 bytes for each lane.
std::byte* exchange_slots();
void wait_for_warp();
std::byte* block_memory();

/// Queues a grid, whose threads all run `thread`.
void queue(Queue& queue, const dim3& blocks, const dim3& threads, size_t shared_bytes, std::function<void()> thread);
/// Queues what the device does otherwise: a library's call.
void queue(Queue& queue, std::function<void()> work);

}  // namespace emulation

#define threadIdx (::nibble::cuda::emulation::position.thread)
#define blockIdx (::nibble::cuda::emulation::position.block)
#define blockDim (::nibble::cuda::emulation::block_size)
#define gridDim (::nibble::cuda::emulation::grid_size)

inline void __syncthreads() { emulation::wait_for_block(); }

/// Number of the thread in its warp.
inline unsigned lane() { return threadIdx.x % 32; }

/// The value of another lane; all lanes of the warp call it.
template <class T>
T of_lane(T value, unsigned from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  std::byte* const slots = emulation::exchange_slots();
  std::memcpy(slots + 16 * lane(), &value, sizeof value);
  emulation::wait_for_warp();
  std::memcpy(static_cast<void*>(&value), slots + 16 * from, sizeof value);
  return value;
}

/// The block's memory, as many bytes as the launch said.
template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulation::block_memory());
}

/// Before a loop over elements of a small array (the GPU's part says why); host code has no use for it.
#define NIBBLE_UNROLL

/// The arguments are copied now, the kernel runs when its turn comes.
template <class... Parameters>
void launch(Queue& queue, const dim3& blocks, const dim3& threads, size_t shared_bytes, void (*kernel)(Parameters...),
            std::type_identity_t<Parameters>... arguments) {
  emulation::queue(queue, blocks, threads, shared_bytes, [=] { kernel(arguments...); });
}

}  // namespace nibble::cuda
