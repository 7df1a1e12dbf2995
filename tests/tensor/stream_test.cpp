// Parallel regions: every index once, exceptions reach the caller.
#include "tensor/stream.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "tensor/error.hpp"

namespace nibble {
namespace {

TEST(ParallelRegions, AnExceptionOfATaskArrivesAsItself) {
  Stream stream(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    try {
      parallel_tasks(stream, 50, [](int64_t task, int64_t) {
        if (task == 3) throw Error({.kind = ErrorKind::resource, .what = "task 3"});
      });
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::resource);
    }
    EXPECT_THROW(parallel_for(stream, 50, 1,
                              [](int64_t, int64_t end) {
                                if (end == 50) throw Error({.kind = ErrorKind::data, .what = "the last range"});
                              }),
                 Error);
  }
}

TEST(ParallelRegions, TasksRunOnceWithTheirOwnScratch) {
  Stream stream(3);
  std::vector<std::atomic<int>> visits(100);
  std::vector<std::atomic<int>> busy(3);
  parallel_tasks(stream, 100, [&](int64_t task, int64_t thread) {
    EXPECT_EQ(busy[static_cast<size_t>(thread)].fetch_add(1), 0) << "two tasks at once with one thread's scratch";
    ++visits[static_cast<size_t>(task)];
    busy[static_cast<size_t>(thread)].fetch_sub(1);
  });
  for (const std::atomic<int>& count : visits) EXPECT_EQ(count, 1);
}

TEST(ParallelRegions, AreSerialInsideATask) {
  Stream stream(2);
  std::atomic<int> ranges = 0;
  parallel_tasks(stream, 4,
                 [&](int64_t, int64_t) { parallel_for(stream, 1000, 1, [&](int64_t, int64_t) { ++ranges; }); });
  EXPECT_EQ(ranges, 4);
}

}  // namespace
}  // namespace nibble
