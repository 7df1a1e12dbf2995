// The emulation keeps the rules that kernels are written by, and finds what breaks them.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda {
namespace {

/// Device memory with a copy of host values.
template <class T>
class Values {
 public:
  Values(Queue& queue, std::vector<T> values)
      : queue_(queue), size_(values.size()), memory_(static_cast<T*>(allocate(size_ * sizeof(T)))) {
    queue_.copy(memory_, values.data(), size_ * sizeof(T));
    queue_.wait();
  }
  ~Values() { release(memory_); }
  T* on_device() const { return memory_; }
  std::vector<T> on_host() const {
    std::vector<T> values(size_);
    queue_.copy(values.data(), memory_, size_ * sizeof(T));
    queue_.wait();
    return values;
  }

 private:
  Queue& queue_;
  size_t size_;
  T* memory_;
};

std::vector<float> ascending(size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

__global__ void number_threads(unsigned* numbers) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  numbers[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

TEST(Emulation, EveryThreadOfAGridRunsOnce) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<unsigned> numbers(queue, std::vector<unsigned>(2 * 3 * 4 * 5 * 2 * 3));
  launch(queue, {2, 3, 4}, {5, 2, 3}, 0, number_threads, numbers.on_device());
  const std::vector<unsigned> seen = numbers.on_host();
  for (unsigned i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i / 30 * 1000 + i % 30);
}

__global__ void sum_blocks(const float* values, float* sums) {
  __shared__ float shared[32];
  const float sum = over_block(values[blockIdx.x * blockDim.x + threadIdx.x], shared, Plus());
  const float twice = over_block(2 * sum, shared, Plus());
  if (threadIdx.x == blockDim.x - 1) sums[blockIdx.x] = sum + twice;
}

TEST(Emulation, SumsOfBlocks) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  for (const unsigned threads : {32u, 64u, 1024u}) {
    const Values<float> values(queue, ascending(7 * threads)), sums(queue, std::vector<float>(7));
    launch(queue, {7}, {threads}, 0, sum_blocks, values.on_device(), sums.on_device());
    const std::vector<float> seen = sums.on_host();
    for (unsigned b = 0; b < 7; ++b) {
      const float first = static_cast<float>(b * threads), count = static_cast<float>(threads);
      EXPECT_EQ(seen[b], (first * count + count * (count - 1) / 2) * (1 + 2 * count));
    }
  }
}

/// Neighbours' values through the block's memory, each round after all of the one before.
__global__ void rotate(float* values, int rounds) {
  float* const shared = shared_memory<float>();
  const bool poisoned = shared[threadIdx.x] != shared[threadIdx.x];
  shared[threadIdx.x] = values[threadIdx.x];
  for (int i = 0; i < rounds; ++i) {
    __syncthreads();
    const float next = shared[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    shared[threadIdx.x] = next;
  }
  values[threadIdx.x] = poisoned ? shared[threadIdx.x] : -1;
}

TEST(Emulation, BlocksWaitForAllTheirThreads) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<float> values(queue, ascending(96));
  launch(queue, {1}, {96}, 96 * sizeof(float), rotate, values.on_device(), 5);
  const std::vector<float> seen = values.on_host();
  for (size_t i = 0; i < 96; ++i) EXPECT_EQ(seen[i], static_cast<float>((i + 5) % 96));
}

__global__ void leave_early(float* values) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  values[threadIdx.x] = 1;
}

TEST(Emulation, FinishedThreadsHoldUpNobody) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<float> values(queue, std::vector<float>(64));
  launch(queue, {1}, {64}, 0, leave_early, values.on_device());
  const std::vector<float> seen = values.on_host();
  EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), 0.0f), 40);
}

__global__ void exchange_in_half_a_warp(float* values) {
  if (lane() < 16) values[lane()] = of_lane(values[lane()], lane() ^ 1u);
}

TEST(Emulation, LanesThatExchangeAloneAreAnError) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<float> values(queue, ascending(32));
  launch(queue, {1}, {32}, 0, exchange_in_half_a_warp, values.on_device());
  try {
    queue.wait();
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::internal);
    EXPECT_EQ(error.detail().seen, "16 of 32 lanes");
  }
  // The device goes on.
  launch(queue, {1}, {64}, 0, leave_early, values.on_device());
  queue.wait();
}

__global__ void fail(int) { throw Error({.kind = ErrorKind::numerics, .what = "in a kernel"}); }

TEST(Emulation, WhatAKernelThrowsComesWithTheWait) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  launch(queue, {4}, {64}, 0, fail, 0);
  EXPECT_THROW(queue.wait(), Error);
  queue.wait();
}

TEST(Emulation, WorkIsDoneWhenSomebodyWaits) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  std::vector<float> host(4, 7);
  const Values<float> values(queue, std::vector<float>(4));
  queue.copy(host.data(), values.on_device(), 16);
  EXPECT_EQ(host[0], 7);
  queue.wait();
  EXPECT_EQ(host[0], 0);
}

TEST(Emulation, QueuesWaitForOthers) {
  const std::unique_ptr<Queue> first = make_queue(), second = make_queue();
  const std::vector<float> ones(4, 1), twos(4, 2);
  const Values<float> values(*first, std::vector<float>(4));
  std::vector<float> host(4);
  first->copy(values.on_device(), ones.data(), 16);
  second->after(*first);
  first->copy(values.on_device(), twos.data(), 16);
  second->copy(host.data(), values.on_device(), 16);
  second->wait();
  EXPECT_EQ(host, ones);
  first->wait();
}

TEST(EmulationDeathTest, HostCodeHasNoAccessToTheDevicesMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto* const memory = static_cast<float*>(allocate(64));
  EXPECT_DEATH(memory[0] = 1, "");
  release(memory);
}

TEST(Emulation, MemoryRunsOut) {
  const size_t limit = devices()[0].memory;
  emulation::limit_memory(1 << 20);
  void* const half = allocate(512 << 10);
  EXPECT_EQ(devices()[0].free, size_t{512 << 10});
  EXPECT_THROW(allocate(600 << 10), Error);
  release(half);
  release(allocate(600 << 10));
  emulation::limit_memory(limit);
}

}  // namespace
}  // namespace nibble::cuda
