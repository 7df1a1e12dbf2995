// The emulation's part of kernel.hpp: CUDA's words for host compilers.
//
// A block's threads are fibers of one host thread, which take turns where they wait for each other; blocks are shared
// among the host's threads. Blocks, warps and lanes run in an order that is drawn (control.hpp). Threads of a block
// that wait for different things, which a GPU leaves undefined, are an error. Not for: speed.
#pragma once

#include <atomic>
#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "tensor/cuda/device.hpp"
#include "tensor/cuda/fragments.hpp"
#include "tensor/dtype.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
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

/// The calling thread's kernel begins.
void begin_kernel();
void wait_for_block();
/// For each lane, where the calling thread's warp exchanges values.
inline constexpr size_t slot_bytes = 32;
using Slot = std::byte[slot_bytes];
Slot* exchange_slots();
void wait_for_warp();
void order_lanes();
std::byte* block_memory();
/// Zeros from null. Of the calling thread, as those that follow.
void copy_later(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_for_copies(unsigned groups_that_may_be_missing);

/// Queues a grid, whose threads all run `thread`, which calls the kernel.
void queue(Queue& queue, const void* kernel, const dim3& blocks, const dim3& threads, size_t shared_bytes,
           std::function<void()> thread);
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

namespace emulation {

/// What all lanes of a warp give, until the calling one gives something again.
template <class T>
class Exchanged {
 public:
  explicit Exchanged(const T& own) : slots_(exchange_slots()) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= slot_bytes);
    std::memcpy(slots_[lane()], &own, sizeof own);
    wait_for_warp();
  }
  T operator[](unsigned of) const {
    T value;
    std::memcpy(static_cast<void*>(&value), slots_[of], sizeof value);
    return value;
  }

 private:
  Slot* slots_;
};

/// The two numbers of a word.
inline void unpack(uint32_t pair, float* numbers) {
  numbers[0] = std::bit_cast<float>(pair << 16);
  numbers[1] = std::bit_cast<float>(pair & 0xffff0000u);
}

}  // namespace emulation

/// The value of another lane; all lanes of the warp call it.
template <class T>
T of_lane(T value, unsigned from) {
  return emulation::Exchanged<T>(value)[from];
}

/// What lanes of a warp read and write before, is before all that they do behind it, which an exchange of values does
/// not promise; all lanes of the warp call it.
inline void order_lanes() { emulation::order_lanes(); }

/// p, which points into the device's memory and not a block's.
template <class T>
T* global(T* p) {
  return p;
}

/// Integers, whose sum has no order.
inline void atomic_add(unsigned long long* to, unsigned long long count) {
  std::atomic_ref(*to).fetch_add(count, std::memory_order_relaxed);
}

/// The block's memory, as many bytes as the launch said.
template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulation::block_memory());
}

/// Before a loop over elements of a small array (the GPU's part says why); host code has no use for it.
#define NIBBLE_UNROLL

/// Two numbers in one word, `low` in its lower half; rounded to nearest.
inline uint32_t bf16_pair(float low, float high) { return bf16(low).bits | uint32_t{bf16(high).bits} << 16; }

/// c += a b, a product at a time; all lanes of the warp call it.
inline void mma(FragmentC& c, const FragmentA& a, const FragmentB& b) {
  struct Operands {
    FragmentA a;
    FragmentB b;
  };
  const emulation::Exchanged<Operands> of(Operands{a, b});
  const unsigned row = lane() / 4, col = 2 * (lane() % 4);
  float left[2][16], right[2][16];
  for (unsigned holder = 0; holder < 4; ++holder) {
    const Operands of_row = of[4 * row + holder];
    for (unsigned i = 0; i < 4; ++i) emulation::unpack(of_row.a.pairs[i], left[i % 2] + 8 * (i / 2) + 2 * holder);
    for (unsigned j = 0; j < 2; ++j) {
      const Operands of_col = of[4 * (col + j) + holder];
      for (unsigned i = 0; i < 2; ++i) emulation::unpack(of_col.b.pairs[i], right[j] + 8 * i + 2 * holder);
    }
  }
  for (unsigned k = 0; k < 16; ++k)
    for (unsigned i = 0; i < 4; ++i) c.values[i] += left[i / 2][k] * right[i % 2][k];
}

/// Four 8 x 8 matrices from the block's memory, or their transposes: lane l says where row l % 8 of matrix l / 8 lies,
/// a multiple of 16 bytes. All lanes of the warp call it.
template <bool transposed>
Fragment<4> load_matrices(const bf16* row) {
  assert(reinterpret_cast<uintptr_t>(row) % 16 == 0);
  const emulation::Exchanged<const bf16*> rows(row);
  Fragment<4> matrices{};
  const unsigned i = lane() / 4, j = 2 * (lane() % 4);
  for (unsigned m = 0; m < 4; ++m) {
    const bf16 low = transposed ? rows[8 * m + j][i] : rows[8 * m + i][j];
    const bf16 high = transposed ? rows[8 * m + j + 1][i] : rows[8 * m + i][j + 1];
    matrices.pairs[m] = low.bits | uint32_t{high.bits} << 16;
  }
  return matrices;
}

/// Begins to copy 4 or 16 bytes, aligned as they are long, to the block's memory; zeros where `from` is not present.
/// Nothing is there before the thread waits.
template <int bytes>
void copy_async(void* shared, const void* from, bool present) {
  static_assert(bytes == 4 || bytes == 16);
  assert(reinterpret_cast<uintptr_t>(shared) % bytes == 0 && reinterpret_cast<uintptr_t>(from) % bytes == 0);
  emulation::copy_later(shared, present ? from : nullptr, bytes);
}
/// What the thread has begun to copy since the last call is one group.
inline void commit_copies() { emulation::commit_copies(); }
/// Until all but the newest `groups` of the thread's copies are there; other threads see them after __syncthreads().
template <int groups>
void wait_for_copies() {
  emulation::wait_for_copies(groups);
}

/// Raises `largest` to `value`, among all threads of the device.
inline void atomic_max(float* largest, float value) {
  const std::atomic_ref<float> shared(*largest);
  float before = shared.load();
  while (before < value && !shared.compare_exchange_weak(before, value)) {
  }
}

namespace emulation {

/// With arguments that the calling thread has for itself, as on a GPU.
template <class... Parameters>
void call(void (*kernel)(Parameters...), Parameters... arguments) {
  begin_kernel();
  kernel(arguments...);
}

}  // namespace emulation

/// The arguments are copied now, the kernel runs when its turn comes.
template <class... Parameters>
void launch(Queue& queue, const dim3& blocks, const dim3& threads, size_t shared_bytes, void (*kernel)(Parameters...),
            std::type_identity_t<Parameters>... arguments) {
  emulation::queue(queue, reinterpret_cast<const void*>(kernel), blocks, threads, shared_bytes,
                   [=] { emulation::call<Parameters...>(kernel, arguments...); });
}

}  // namespace nibble::cuda
