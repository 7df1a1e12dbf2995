// What is staged reaches kernels as it was, however much follows.
#include "tensor/staging.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::on_host;

std::vector<int32_t> numbers(size_t count, int32_t first) {
  std::vector<int32_t> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

class Stages : public ::testing::Test {
 protected:
  /// Queues a copy of what was sent, as a kernel would read it.
  void keep(const int32_t* sent, size_t count) {
    kept_.emplace_back(DType::i32, 1, static_cast<int64_t>(count), "test", Place::device);
    stream.queue().copy(kept_.back().view().data, sent, count * sizeof *sent);
  }
  bool kept_is(size_t which, const std::vector<int32_t>& expected) {
    const OwnedTensor seen = on_host(stream, kept_[which]);
    return std::equal(expected.begin(), expected.end(), seen.view().as<int32_t>());
  }

  Stream stream{1, Place::device};

 private:
  std::vector<OwnedTensor> kept_;
};

TEST_F(Stages, MoreThanBothHalvesHold) {
  constexpr size_t count = 100'003;  // two and a bit for each half
  for (int32_t i = 0; i < 12; ++i) {
    std::vector<int32_t> values = numbers(count, 1000 * i);
    const int32_t* const sent = stream.staging().send(std::span<const int32_t>(values));
    std::ranges::fill(values, -1);  // the caller's memory is free at once
    keep(sent, count);
  }
  for (int32_t i = 0; i < 12; ++i) EXPECT_TRUE(kept_is(static_cast<size_t>(i), numbers(count, 1000 * i))) << i;
}

TEST_F(Stages, WhatWasSentBeforeAHalfWasFullIsStillThere) {
  constexpr size_t most = Staging::least_half / sizeof(int32_t);
  stream.staging().take<std::byte>(Staging::least_half - 4096);
  const std::vector<int32_t> first = numbers(1000, 5), second = numbers(most, 70);
  const int32_t* const small = stream.staging().send(std::span<const int32_t>(first));
  const int32_t* const large = stream.staging().send(std::span<const int32_t>(second));  // of the other half
  keep(small, first.size());
  keep(large, second.size());
  EXPECT_TRUE(kept_is(0, first));
  EXPECT_TRUE(kept_is(1, second));
}

TEST_F(Stages, HalvesGrow) {
  const size_t before = held_memory(Place::device)["staging"];
  const std::vector<int32_t> values = numbers(Staging::least_half, 3);  // four times what one has
  keep(stream.staging().send(std::span<const int32_t>(values)), values.size());
  EXPECT_TRUE(kept_is(0, values));
  EXPECT_EQ(held_memory(Place::device)["staging"] - before, values.size() * sizeof(int32_t));
}

TEST_F(Stages, ResultsComeBack) {
  const std::vector<int32_t> values = numbers(77, 9);
  const int32_t* const sent = stream.staging().send(std::span<const int32_t>(values));
  const Staged<int32_t> back = stream.staging().take<int32_t>(values.size());
  stream.queue().copy(back.host, sent, values.size() * sizeof(int32_t));
  stream.wait();
  EXPECT_TRUE(std::equal(values.begin(), values.end(), back.host));
}

TEST_F(Stages, NothingIsSentForNothing) {
  EXPECT_EQ(stream.staging().send(std::span<const int32_t>()), nullptr);
  EXPECT_EQ(held_memory(Place::device)["staging"], 0u);
}

}  // namespace
}  // namespace nibble
