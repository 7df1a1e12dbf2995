// What kernels do wrong is found, named and placed; what they do right is not.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned elements = 1024;

class Racecheck : public ::testing::TestWithParam<uint64_t> {
 protected:
  Racecheck() { emulation::set_order(GetParam()); }
  ~Racecheck() override {
    release(values_);
    emulation::set_order(2);
  }

  /// What the grid is accused of; nothing: of nothing.
  std::string found(void (*kernel)(float*), const dim3& blocks, const dim3& threads, size_t shared_bytes = 0) {
    launch(*queue_, blocks, threads, shared_bytes, kernel, values_);
    try {
      queue_->wait();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::internal);
      return error.what();
    }
    return "";
  }

 private:
  std::unique_ptr<Queue> queue_ = make_queue();
  float* const values_ = static_cast<float*>(allocate(elements * sizeof(float)));
};

/// A text that has all of these.
void expect_in(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
}

__global__ void pass_to_neighbours(float* values) {
  __shared__ float shared[64];
  float* const dynamic = shared_memory<float>();
  shared[threadIdx.x] = values[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  dynamic[threadIdx.x] = shared[(threadIdx.x + 1) % 64] + shared[0];
  __syncthreads();
  shared[threadIdx.x] = dynamic[(threadIdx.x + 5) % 64];
  const float sum = over_block(shared[threadIdx.x], dynamic, Plus());
  values[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

TEST_P(Racecheck, FindsNothingInWhatIsRight) {
  EXPECT_EQ(found(pass_to_neighbours, {4}, {64}, 256), "");
  EXPECT_EQ(found(pass_to_neighbours, {4}, {64}, 256), "");  // grids have an order
}

__global__ void race_in_array(float* values) {
  __shared__ float shared[64];
  shared[threadIdx.x] = values[threadIdx.x];
  values[threadIdx.x] = shared[threadIdx.x ^ 32u];
}
__global__ void race_in_block_memory(float* values) {
  float* const shared = shared_memory<float>();
  shared[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
  shared[threadIdx.x] = 1;
}
/// An exchange in between is no barrier.
__global__ void race_in_a_warp(float* values) {
  __shared__ float shared[32];
  shared[threadIdx.x] = of_lane(values[threadIdx.x], 3);
  const float other = of_lane(1.0f, 1);
  values[threadIdx.x] = shared[threadIdx.x ^ 1u] + other;
}

__global__ void order_a_warp(float* values) {
  __shared__ float shared[64];
  shared[threadIdx.x] = values[threadIdx.x];
  order_lanes();
  const float other = shared[threadIdx.x ^ 1u];
  order_lanes();
  shared[threadIdx.x ^ 3u] = other;
  order_lanes();
  values[threadIdx.x] = shared[threadIdx.x ^ (blockDim.x > 32 ? 32u : 5u)];
}

TEST_P(Racecheck, FindsRacesInABlock) {
  const std::string no_order = "two threads touch the same byte of a block's memory in no order";
  expect_in(found(race_in_array, {1}, {64}), {no_order, "race_in_array at racecheck_test.cpp:", "of block (0, 0, 0)"});
  expect_in(found(race_in_block_memory, {1}, {64}, 256), {no_order, "race_in_block_memory", "which writes"});
  expect_in(found(race_in_a_warp, {1}, {32}), {no_order, "race_in_a_warp"});
  EXPECT_EQ(found(order_a_warp, {1}, {32}), "");
  expect_in(found(order_a_warp, {1}, {64}), {no_order, "order_a_warp"});
}

/// Both write, the same.
__global__ void race_of_blocks(float* values) {
  if (threadIdx.x == 7) values[100] = 1;
}
__global__ void read_other_block(float* values) {
  const float other = values[(blockIdx.x + 1) % 2];
  __syncthreads();
  if (threadIdx.x == 3) values[blockIdx.x] = other;
}

TEST_P(Racecheck, FindsRacesOfBlocks) {
  const std::string no_order = "two threads touch the same byte of the device's memory in no order";
  expect_in(found(race_of_blocks, {2}, {32}),
            {no_order, "race_of_blocks", "thread (7, 0, 0) of block (0, 0, 0)", "thread (7, 0, 0) of block (1, 0, 0)"});
  EXPECT_EQ(found(race_of_blocks, {1}, {32}), "");
  expect_in(found(read_other_block, {2}, {32}), {no_order, "read_other_block"});
}

/// Neighbouring bytes belong to several threads.
__global__ void write_bytes(float* values) { reinterpret_cast<uint8_t*>(values)[threadIdx.x] = 1; }
__global__ void write_bytes_and_words(float* values) {
  if (threadIdx.x == 0) values[1] = 1;
  else if (threadIdx.x < 5) reinterpret_cast<uint8_t*>(values)[threadIdx.x] = 1;
}

TEST_P(Racecheck, KnowsBytes) {
  EXPECT_EQ(found(write_bytes, {1}, {64}), "");
  expect_in(found(write_bytes_and_words, {1}, {32}), {"thread (4, 0, 0)", "thread (0, 0, 0)"});
}

__global__ void count(float* values) {
  atomic_add(reinterpret_cast<unsigned long long*>(values), 1);
  atomic_max(values + 2, 1);
}
__global__ void count_and_read(float* values) {
  atomic_add(reinterpret_cast<unsigned long long*>(values), 1);
  __syncthreads();
  if (threadIdx.x == 1) values[10 + blockIdx.x] = values[0];
}

TEST_P(Racecheck, AtomicOperationsNeedNoOrderAmongThem) {
  EXPECT_EQ(found(count, {3}, {64}), "");
  EXPECT_EQ(found(count_and_read, {1}, {64}), "");
  expect_in(found(count_and_read, {2}, {64}), {"count_and_read", "changes by an atomic operation"});
}

__global__ void write_behind(float* values) { values[elements + threadIdx.x] = 1; }
__global__ void write_behind_block_memory(float*) { shared_memory<float>()[threadIdx.x] = 1; }
__global__ void read_behind_array(float* values) {
  __shared__ float shared[32];
  shared[threadIdx.x] = 1;
  values[threadIdx.x] = shared[threadIdx.x + (blockDim.x > 16 ? 1 : 0)];
}
float of_the_host = 1;
__global__ void change_the_hosts(float*) { of_the_host *= 2; }

TEST_P(Racecheck, FindsWhatIsOutOfBounds) {
  expect_in(found(write_behind_block_memory, {1}, {65}, 256),
            {"write_behind_block_memory", "writes bytes that are no memory of the device", "thread (64, 0, 0)"});
  expect_in(found(read_behind_array, {1}, {32}), {"'float [32]'", "thread (31, 0, 0)"});
  expect_in(found(change_the_hosts, {1}, {1}), {"change_the_hosts", "writes bytes that are no memory of the device"});
  EXPECT_GT(of_the_host, 1);
}

TEST_P(Racecheck, SaysWhatIsOutOfBoundsBeforeTheProcessEndsOfIt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(found(write_behind, {1}, {1}), "racecheck: write_behind.*writes bytes that are no memory of the device");
}

__global__ void move_pack(float* values) {
  auto* const packs = reinterpret_cast<Pack<float, 2>*>(values + (blockDim.x > 1 ? 1 : 0));
  packs[threadIdx.x + 1] = packs[threadIdx.x + 64];
}

TEST_P(Racecheck, FindsWhatIsMisaligned) {
  EXPECT_EQ(found(move_pack, {1}, {1}), "");
  expect_in(found(move_pack, {1}, {2}), {"no multiple of 8", "move_pack"});
}

__global__ void read_too_early(float* values) {
  __shared__ float shared[32];
  if (threadIdx.x != 9) shared[threadIdx.x] = 1;
  values[threadIdx.x + 32 * blockIdx.x] = shared[threadIdx.x];
}
__global__ void read_device_memory(float* values) { values[threadIdx.x] = values[threadIdx.x + 64]; }

TEST_P(Racecheck, FindsWhatABlockNeverWrote) {
  expect_in(found(read_too_early, {2}, {32}),
            {"a thread reads of a block's memory what its block never wrote", "thread (9, 0, 0)"});
  EXPECT_EQ(found(read_device_memory, {1}, {32}), "");  // which is zero at first
}

__global__ void copy_and_read(float* values) {
  float* const shared = shared_memory<float>();
  copy_async<16>(shared + 4 * threadIdx.x, values + 4 * threadIdx.x, true);
  commit_copies();
  wait_for_copies<0>();
  if (gridDim.x > 1) __syncthreads();
  values[512 + 32 * blockIdx.x + threadIdx.x] = shared[threadIdx.x];
}

TEST_P(Racecheck, CopiesAreOfTheThreadThatBeganThem) {
  EXPECT_EQ(found(copy_and_read, {2}, {32}, 512), "");
  expect_in(found(copy_and_read, {1}, {32}, 512), {"copy_and_read", "a block's memory in no order"});
}

INSTANTIATE_TEST_SUITE_P(Orders, Racecheck, ::testing::Values(0, 1, 2, 3));

}  // namespace
}  // namespace nibble::cuda
