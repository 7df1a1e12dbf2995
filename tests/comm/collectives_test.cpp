// The collectives over threads that are delayed at random.
#include "comm/collectives.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>

#include "comm/group_communicator.hpp"
#include "tests/comm/collective_checks.hpp"
#include "tests/comm/rank_threads.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using namespace std::chrono_literals;

/// A group is made for each sum; memory that comes and goes with it, a device would wait for.
TEST(Groups, WorkInTheMemoryOfTheirWorld) {
  run_on_ranks(4, [](Communicator& world) {
    const int first = world.rank() / 2 * 2;
    for (const auto use : {Communicator::messages, Communicator::rounded}) {
      const std::span<std::byte> all = world.staging(1000, use);
      GroupCommunicator group(world, {first, first + 1});
      EXPECT_EQ(group.staging(900, use).data(), all.data());
    }
  });
}

class Collectives : public testing::TestWithParam<int> {
 protected:
  static int ranks() { return GetParam(); }
  static void on_ranks(const std::function<void(Communicator&)>& body) {
    run_on_ranks(ranks(), body, {.seed = static_cast<uint64_t>(ranks()), .longest = 300us});
  }
};

TEST_P(Collectives, BarrierLetsNobodyPassBeforeAllHaveCome) {
  std::atomic<int> arrived = 0;
  on_ranks([&](Communicator& communicator) {
    for (int round = 1; round <= 20; ++round) {
      ++arrived;
      barrier(communicator);
      EXPECT_GE(arrived, round * ranks());
    }
  });
}

TEST_P(Collectives, BroadcastTheRootsBytes) { on_ranks(check_broadcast); }
TEST_P(Collectives, GatherNumbersInTheOrderOfTheRanks) { on_ranks(check_gather_of_numbers); }
TEST_P(Collectives, GatherTextsInTheOrderOfTheRanks) { on_ranks(check_gather_of_texts); }
TEST_P(Collectives, GatherRaggedParts) { on_ranks(check_all_gather); }

TEST_P(Collectives, ScatterEveryContributionToItsOwner) {
  for (const Wire wire : {Wire::f32, Wire::bf16})
    on_ranks([&](Communicator& communicator) { check_scatter_to_owners(communicator, wire); });
}
TEST_P(Collectives, SumInTheTreeOfTheLanes) {
  for (const Wire wire : {Wire::f32, Wire::bf16})
    on_ranks([&](Communicator& communicator) { check_reduce_scatter(communicator, wire); });
}
TEST_P(Collectives, LeaveTheSameBitsOnAllRanks) {
  for (const Wire wire : {Wire::f32, Wire::bf16})
    on_ranks([&](Communicator& communicator) { check_equal_on_all_ranks(communicator, wire); });
}
TEST_P(Collectives, SendWhatOthersNeedAndNothingElse) {
  for (const Wire wire : {Wire::f32, Wire::bf16})
    on_ranks([&](Communicator& communicator) { check_bytes_sent(communicator, wire); });
}

INSTANTIATE_TEST_SUITE_P(, Collectives, testing::Range(1, 9),
                         [](const auto& test) { return "Of" + std::to_string(test.param) + "Ranks"; });

TEST(ThreadCommunicator, RefusesAMessageOfAnotherSize) {
  for (const size_t sent : {3u, 5u})
    run_on_ranks(2, [&](Communicator& communicator) {
      std::vector<std::byte> bytes(communicator.rank() == 0 ? sent : 4);
      const Communicator::Send send{1, bytes};
      const Communicator::Receive receive{0, bytes};
      if (communicator.rank() == 0)
        expect_error(ErrorKind::communication, {"rank 1 stopped at a message of a wrong size"}, [&] {
          communicator.transfer({&send, 1}, {});
        });
      else
        expect_error(ErrorKind::communication, {"message from rank 0", fmt::format("{} bytes", sent), "4 bytes"}, [&] {
          communicator.transfer({}, {&receive, 1});
        });
    });
}

TEST(ThreadCommunicator, FailsOnAllRanksWhenOneIsAbandoned) {
  run_on_ranks(4, [&](Communicator& communicator) {
    if (communicator.rank() == 2) return communicator.abandon();
    expect_error(ErrorKind::communication, {"rank 2 was abandoned"}, [&] {
      while (true) barrier(communicator);
    });
  });
}

TEST(ThreadCommunicator, FailsOnThoseWhoWaitForARankThatIsDestroyed) {
  std::vector<std::unique_ptr<Communicator>> world = make_thread_communicators(2);
  std::thread waiting(
      [&] { expect_error(ErrorKind::communication, {"rank 1 has ended"}, [&] { barrier(*world[0]); }); });
  std::this_thread::sleep_for(5ms);
  world[1].reset();
  waiting.join();
}

}  // namespace
}  // namespace nibble
