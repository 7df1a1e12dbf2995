// The emulation keeps the rules that kernels are written by, and finds what breaks them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/emulation/order.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/cuda/mark.hpp"
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

/// Through pointers that stand in the device's memory.
__global__ void double_where(float* const* table) { global(table[blockIdx.x])[threadIdx.x] *= 2; }

TEST(Emulation, PointersOfATable) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<float> first(queue, ascending(32)), second(queue, ascending(32));
  const Values<float*> table(queue, {first.on_device(), second.on_device()});
  launch(queue, {2}, {32}, 0, double_where, table.on_device());
  for (const Values<float>* values : {&first, &second}) {
    const std::vector<float> seen = values->on_host();
    for (size_t i = 0; i < 32; ++i) EXPECT_EQ(seen[i], 2 * static_cast<float>(i));
  }
}

__global__ void count_threads(unsigned long long* counts) { atomic_add(counts + threadIdx.x % 3, threadIdx.x + 1); }

TEST(Emulation, BlocksCountTogether) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<unsigned long long> counts(queue, std::vector<unsigned long long>(3));
  launch(queue, {50}, {6}, 0, count_threads, counts.on_device());
  EXPECT_EQ(counts.on_host(), (std::vector<unsigned long long>{50 * (1 + 4), 50 * (2 + 5), 50 * (3 + 6)}));
}

/// Which of its threads came first, second ... before a barrier, and behind it those of a warp between exchanges.
__global__ void note_turns(unsigned* turns) {
  unsigned* const next = shared_memory<unsigned>();
  if (threadIdx.x == 0) *next = 0;
  __syncthreads();
  turns[(*next)++] = threadIdx.x;
  __syncthreads();
  if (threadIdx.x < 32) {
    of_lane(0, 0);
    turns[(*next)++] = threadIdx.x;
  }
}

TEST(Emulation, TurnsAreTakenInTheOrderThatASeedDraws) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const auto turns = [&](uint64_t seed) {
    emulation::set_order(seed);
    const Values<unsigned> noted(queue, std::vector<unsigned>(96 + 32));
    launch(queue, {1}, {96}, sizeof(unsigned), note_turns, noted.on_device());
    return noted.on_host();
  };
  const uint64_t seed_before = emulation::order_seed();
  std::vector<unsigned> ascending(96 + 32);
  for (unsigned i = 0; i < ascending.size(); ++i) ascending[i] = i % 96;
  EXPECT_EQ(turns(0), ascending);
  std::vector<unsigned> descending = ascending;
  std::reverse(descending.begin(), descending.begin() + 96);
  std::reverse(descending.begin() + 96, descending.end());
  EXPECT_EQ(turns(1), descending);
  const std::vector<unsigned> drawn = turns(2);
  EXPECT_EQ(drawn, turns(2));
  for (const auto& other : {ascending, descending, turns(3)}) {
    EXPECT_NE(drawn, other);
    EXPECT_NE(std::vector(drawn.end() - 32, drawn.end()), std::vector(other.end() - 32, other.end()));
  }
  emulation::set_order(seed_before);
}

TEST(Emulation, OrdersArePermutations) {
  for (const uint64_t seed : {0, 1, 2, 3, 4})
    for (const size_t count : {1, 2, 3, 30, 32, 1000}) {
      const emulation::Order order(seed, 7, count);
      std::vector<size_t> seen(count), all(count);
      for (size_t i = 0; i < count; ++i) seen[i] = order[i];
      std::sort(seen.begin(), seen.end());
      std::iota(all.begin(), all.end(), size_t{0});
      EXPECT_EQ(seen, all) << "seed " << seed << ", " << count;
    }
}

__global__ void pass_in_a_warp(float* values) {
  float* const shared = shared_memory<float>();
  shared[threadIdx.x] = values[threadIdx.x];
  order_lanes();
  values[threadIdx.x] = shared[threadIdx.x ^ 31u];
}

TEST(Emulation, LanesWaitForTheirWarp) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<float> values(queue, ascending(64));
  launch(queue, {1}, {64}, 256, pass_in_a_warp, values.on_device());
  const std::vector<float> seen = values.on_host();
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(seen[i], static_cast<float>(i ^ 31u));
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

/// Small numbers, so that all sums are exact.
std::vector<bf16> small_numbers(size_t count, unsigned factor) {
  std::vector<bf16> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = bf16(static_cast<float>(static_cast<int>(i * factor % 17) - 8));
  return values;
}

/// The numbers of a word, wherever they are in memory.
__device__ uint32_t pair_at(const bf16* low, const bf16* high) {
  return bf16_pair(static_cast<float>(*low), static_cast<float>(*high));
}

/// c[16, 8] += a[16, 16] b[16, 8], fragments filled element by element as PTX's tables have them.
__global__ void multiply_fragments(const bf16* a, const bf16* b, float* c) {
  const unsigned group = lane() / 4, in_group = lane() % 4;
  FragmentA left;
  for (unsigned i = 0; i < 4; ++i) {
    const bf16* const at = a + 16 * (group + i % 2 * 8) + 2 * in_group + i / 2 * 8;
    left.pairs[i] = pair_at(at, at + 1);
  }
  FragmentB right;
  for (unsigned i = 0; i < 2; ++i) {
    const bf16* const at = b + 8 * (2 * in_group + 8 * i) + group;
    right.pairs[i] = pair_at(at, at + 8);
  }
  FragmentC sum;
  const auto at = [&](unsigned i) { return c + 8 * (group + i / 2 * 8) + 2 * in_group + i % 2; };
  for (unsigned i = 0; i < 4; ++i) sum.values[i] = *at(i);
  mma(sum, left, right);
  for (unsigned i = 0; i < 4; ++i) *at(i) = sum.values[i];
}

TEST(Emulation, ProductsOfTensorCores) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const std::vector<bf16> left = small_numbers(256, 7), right = small_numbers(128, 5);
  const Values<bf16> a(queue, left), b(queue, right);
  const Values<float> c(queue, ascending(128));
  launch(queue, {1}, {32}, 0, multiply_fragments, a.on_device(), b.on_device(), c.on_device());
  const std::vector<float> seen = c.on_host();
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j) {
      float expected = static_cast<float>(8 * i + j);
      for (size_t k = 0; k < 16; ++k)
        expected += static_cast<float>(left[16 * i + k]) * static_cast<float>(right[8 * k + j]);
      EXPECT_EQ(seen[8 * i + j], expected) << i << ", " << j;
    }
}

/// The four quarters of [16, 16] from the block's memory, as they are and transposed.
__global__ void load_quarters(const bf16* matrix, uint32_t* pairs) {
  bf16* const shared = shared_memory<bf16>();
  for (unsigned i = lane(); i < 256; i += 32) shared[i] = matrix[i];
  __syncthreads();
  const bf16* const row = shared + 16 * (lane() % 16) + lane() / 16 * 8;
  const Fragment<4> plain = load_matrices<false>(row), transposed = load_matrices<true>(row);
  for (unsigned i = 0; i < 4; ++i) {
    pairs[8 * lane() + i] = plain.pairs[i];
    pairs[8 * lane() + 4 + i] = transposed.pairs[i];
  }
}

TEST(Emulation, MatricesFromABlocksMemory) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  std::vector<bf16> numbers(256);
  for (size_t i = 0; i < 256; ++i) numbers[i] = bf16(static_cast<float>(i));
  const Values<bf16> matrix(queue, numbers);
  const Values<uint32_t> pairs(queue, std::vector<uint32_t>(256));
  launch(queue, {1}, {32}, 256 * sizeof(bf16), load_quarters, matrix.on_device(), pairs.on_device());
  const std::vector<uint32_t> seen = pairs.on_host();
  for (size_t l = 0; l < 32; ++l)
    for (size_t quarter = 0; quarter < 4; ++quarter) {
      const size_t row = l / 4, col = 2 * (l % 4), first = quarter % 2 * 8 * 16 + quarter / 2 * 8;
      const auto number = [&](size_t i, size_t j) { return static_cast<float>(numbers[first + 16 * i + j]); };
      EXPECT_EQ(seen[8 * l + quarter], bf16_pair(number(row, col), number(row, col + 1)));
      EXPECT_EQ(seen[8 * l + 4 + quarter], bf16_pair(number(col, row), number(col + 1, row)));
    }
}

__global__ void copy_in_groups(const float* values, float* seen) {
  float* const shared = shared_memory<float>();
  copy_async<16>(shared, values, true);
  copy_async<4>(shared + 4, values + 4, true);
  commit_copies();
  copy_async<4>(shared + 5, values + 5, true);
  copy_async<16>(shared + 8, values, false);
  commit_copies();
  seen[0] = shared[0];
  wait_for_copies<1>();
  seen[1] = shared[3];
  seen[2] = shared[4];
  seen[3] = shared[5];
  wait_for_copies<0>();
  seen[4] = shared[5];
  seen[5] = shared[11];
}

TEST(Emulation, CopiesAreThereWhenTheirThreadHasWaited) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<float> values(queue, ascending(8)), seen(queue, std::vector<float>(6));
  launch(queue, {1}, {1}, 12 * sizeof(float), copy_in_groups, values.on_device(), seen.on_device());
  const std::vector<float> of = seen.on_host();
  EXPECT_TRUE(std::isnan(of[0]));
  EXPECT_EQ(of[1], 3);
  EXPECT_EQ(of[2], 4);
  EXPECT_TRUE(std::isnan(of[3]));
  EXPECT_EQ(of[4], 5);
  EXPECT_EQ(of[5], 0);
}

__global__ void raise_all(float* largest, const float* values) {
  for (unsigned i = 0; i < 3; ++i) atomic_max(largest + i, values[3 * blockIdx.x + i]);
}

TEST(Emulation, LargestOfAllThreads) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  const Values<float> largest(queue, {-INFINITY, -2, 1}),
      values(queue, {-5, -3, -1, -4, -1.5f, 0.5f, -INFINITY, 0, -7, -6, -9, 0});
  launch(queue, {4}, {1}, 0, raise_all, largest.on_device(), values.on_device());
  EXPECT_EQ(largest.on_host(), (std::vector<float>{-4, 0, 1}));
}

__global__ void fail(int) { throw Error({.kind = ErrorKind::numerics, .what = "in a kernel"}); }

TEST(Emulation, WhatAKernelThrowsComesWithTheWait) {
  const std::unique_ptr<Queue> owned = make_queue();
  Queue& queue = *owned;
  launch(queue, {4}, {64}, 0, fail, 0);
  bool behind = false;
  emulation::queue(queue, [&] { behind = true; });
  EXPECT_THROW(queue.wait(), Error);
  queue.wait();
  EXPECT_FALSE(behind);
  emulation::queue(queue, [&] { behind = true; });
  queue.wait();
  EXPECT_TRUE(behind);
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

TEST(Emulation, AMarkIsWhatWasQueuedByThen) {
  std::unique_ptr<Queue> first = make_queue();
  const std::unique_ptr<Queue> second = make_queue();
  std::vector<std::string> done;
  emulation::queue(*first, [&] { done.emplace_back("before"); });
  const std::unique_ptr<Mark> marked = mark(*first);
  emulation::queue(*first, [&] { done.emplace_back("later"); });
  begin_after(*second, *marked);
  emulation::queue(*second, [&] { done.emplace_back("behind"); });
  second->wait();
  EXPECT_EQ(done, (std::vector<std::string>{"before", "behind"}));
  first.reset();
  EXPECT_EQ(done.back(), "later");
  begin_after(*second, *marked);
  second->wait();  // nothing is left to wait for
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

TEST(Emulation, WorkThatDependsOnOthersIsTriedAgain) {
  const std::unique_ptr<Queue> first = make_queue(), second = make_queue();
  bool ready = false;
  int attempts = 0;
  std::vector<int> order;
  emulation::queue_attempts(*first, [&] {
    ++attempts;
    if (ready) order.push_back(1);
    return ready;
  });
  emulation::queue(*first, [&] { order.push_back(2); });
  second->after(*first);
  emulation::queue(*second, [&] { order.push_back(3); });
  EXPECT_FALSE(second->done());
  EXPECT_FALSE(first->done());
  EXPECT_EQ(attempts, 2);
  EXPECT_TRUE(order.empty());
  ready = true;
  EXPECT_TRUE(second->done());
  EXPECT_TRUE(first->done());
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(Emulation, MemoryAndQueuesAreOfTheSelectedDevice) {
  emulation::set_devices(2);
  EXPECT_EQ(devices().size(), 2u);
  EXPECT_NE(devices()[0].identity, devices()[1].identity);
  select(1);
  void* const memory = allocate(100);
  const std::unique_ptr<Queue> queue = make_queue();
  select(0);
  EXPECT_EQ(emulation::device_of(memory, 100), 1);
  EXPECT_EQ(emulation::device_of(memory, 1 << 20), -1);
  EXPECT_EQ(emulation::device_of(*queue), 1);
  release(memory);
  emulation::set_devices(1);
}

}  // namespace
}  // namespace nibble::cuda
