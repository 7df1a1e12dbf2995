#include "data/prefetcher.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

namespace nibble {
namespace {

/// A batch that says which one it is.
Batch numbered(int64_t index) {
  Batch batch;
  batch.loss_tokens = index;
  return batch;
}

TEST(Prefetcher, GivesBatchesInOrderFromTheFirst) {
  Prefetcher prefetcher(numbered, 5, 3);
  for (int64_t index = 5; index < 200; ++index) EXPECT_EQ(prefetcher.next().loss_tokens, index);
}

TEST(Prefetcher, ReadsAheadAsFarAsItsDepth) {
  std::atomic<int> made{0};
  Prefetcher prefetcher([&](int64_t index) { return ++made, numbered(index); }, 0, 3);
  prefetcher.next();
  // Three are ready again at some time, and no fourth is ever begun.
  while (made < 4) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(made, 4);
}

TEST(Prefetcher, CarriesExceptionsBehindTheGoodBatches) {
  const auto produce = [](int64_t index) {
    if (index == 3) throw std::runtime_error("third");
    return numbered(index);
  };
  Prefetcher prefetcher(produce, 1, 4);
  EXPECT_EQ(prefetcher.next().loss_tokens, 1);
  EXPECT_EQ(prefetcher.next().loss_tokens, 2);
  EXPECT_THROW(prefetcher.next(), std::runtime_error);
  EXPECT_THROW(prefetcher.next(), std::runtime_error);
}

TEST(Prefetcher, EndsWhileBatchesAreBeingMade) {
  for (int i = 0; i < 50; ++i) {
    Prefetcher prefetcher(numbered, 0, 2);
    if (i % 2 == 0) prefetcher.next();
  }
}

}  // namespace
}  // namespace nibble
