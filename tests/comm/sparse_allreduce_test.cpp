// The sparse sums over threads that are delayed at random.
#include "comm/sparse_allreduce.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "comm/communication_thread.hpp"
#include "comm/sparse_wire.hpp"
#include "tests/comm/rank_threads.hpp"
#include "tests/comm/sparse_checks.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using namespace std::chrono_literals;

constexpr SparseAlgorithm algorithms[] = {SparseAlgorithm::recursive_doubling, SparseAlgorithm::split,
                                          SparseAlgorithm::dense_split};

class SparseSums : public testing::TestWithParam<int> {
 protected:
  static int ranks() { return GetParam(); }
  static void on_ranks(const std::function<void(Communicator&)>& body) {
    run_on_ranks(ranks(), body, {.seed = static_cast<uint64_t>(ranks()), .longest = 100us});
  }
};

TEST_P(SparseSums, AreTheDenseOnesBitForBitWhereThoseAreExact) { on_ranks(check_exact_sums); }
TEST_P(SparseSums, AddInAnOrderThatDoesNotDependOnArrival) { on_ranks(check_order_of_sums); }
TEST_P(SparseSums, AreTheSameBitsOnAllRanks) { on_ranks(check_sparse_equal_on_all_ranks); }

/// One entry in every bucket of 512: 9 bits and a value each.
SparseStream one_in_each_bucket(int64_t buckets) {
  std::vector<SparseEntry> entries;
  for (int64_t bucket = 0; bucket < buckets; ++bucket)
    entries.push_back({static_cast<uint32_t>(bucket * bucket_elements + 3), 1.0f});
  return SparseStream(buckets * bucket_elements, std::move(entries));
}

// Every rank has the same support, so that sums have as many entries as contributions.
TEST_P(SparseSums, SendTheBytesOfTheFormulas) {
  constexpr int64_t buckets = 8 * 7 * 5 * 3;  // parts of all ranks are equal
  constexpr uint64_t header = 64;
  const auto peers = static_cast<uint64_t>(ranks() - 1);
  const auto bytes = [](int64_t count) {
    return static_cast<uint64_t>(wire_bytes({.layout = SparseLayout::packed, .per_bucket = 1}, count * 512, count));
  };
  on_ranks([&](Communicator& communicator) {
    const auto sent_by = [&](const SparseAllreduce& how) {
      const uint64_t before = communicator.bytes_sent();
      sparse_allreduce(communicator, one_in_each_bucket(buckets), how);
      return communicator.bytes_sent() - before;
    };
    const int64_t part = buckets / ranks();
    EXPECT_EQ(sent_by({.algorithm = SparseAlgorithm::split}), peers * (2 * header + 2 * bytes(part)));
    EXPECT_EQ(sent_by({.algorithm = SparseAlgorithm::dense_split}),
              peers * (header + bytes(part) + static_cast<uint64_t>(part) * 512 * 4));
    if ((ranks() & (ranks() - 1)) == 0) {
      const auto rounds = static_cast<uint64_t>(std::countr_zero(static_cast<unsigned>(ranks())));
      EXPECT_EQ(sent_by({.algorithm = SparseAlgorithm::recursive_doubling}), rounds * (header + bytes(buckets)));
    }
  });
}

INSTANTIATE_TEST_SUITE_P(, SparseSums, testing::Range(1, 9),
                         [](const auto& test) { return "Of" + std::to_string(test.param) + "Ranks"; });

TEST(SparseAllreduce, PartsAreWholeBlocksAndCoverTheVector) {
  for (const int64_t length : {int64_t{0}, int64_t{1}, int64_t{512}, int64_t{5000}, int64_t{1} << 32})
    for (const int ranks : {1, 2, 3, 7, 64})
      for (const int64_t block : {512, 1000}) {
        EXPECT_EQ(part_begin(length, ranks, 0, block), 0);
        EXPECT_EQ(part_begin(length, ranks, ranks, block), length);
        for (int rank = 0; rank < ranks; ++rank) {
          const int64_t begin = part_begin(length, ranks, rank, block),
                        end = part_begin(length, ranks, rank + 1, block);
          EXPECT_LE(begin, end);
          EXPECT_TRUE(begin % block == 0 || begin == length);
          EXPECT_LE(end - begin, length / ranks + 2 * block);
        }
      }
}

TEST(SparseAllreduce, IsRefusedWhereRanksDisagree) {
  for (const SparseAlgorithm algorithm : algorithms) {
    const auto on_two = [&](const std::string& text, auto length_of, auto label_of) {
      run_on_ranks(2, [&](Communicator& communicator) {
        expect_error(ErrorKind::communication, {}, [&] {
          try {
            sparse_allreduce(communicator, SparseStream(length_of(communicator.rank()), {{0, 1.0f}}),
                             {.algorithm = algorithm, .label = label_of(communicator.rank())});
            // Whoever only gives may learn of it here.
            barrier(communicator);
          } catch (const Error& error) {
            communicator.abandon();
            if (communicator.rank() == 1) {
              const std::string message = error.what();
              EXPECT_TRUE(message.find(text) != std::string::npos || message.find("was abandoned") != std::string::npos)
                  << message;
            }
            throw;
          }
        });
      });
    };
    on_two(
        "another length", [](int rank) { return 5000 + 2048 * rank; }, [](int) { return uint64_t{1}; });
    on_two(
        "another sum", [](int) { return int64_t{5000}; }, [](int rank) { return static_cast<uint64_t>(rank); });
  }
}

TEST(SparseAllreduce, RunsOnTheCommunicationThread) {
  std::vector<std::unique_ptr<Communicator>> world = make_thread_communicators(3);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank)
    ranks.emplace_back([&, rank] {
      CommunicationThread thread([&] { return std::move(world[static_cast<size_t>(rank)]); });
      std::vector<SparseStream> totals(4);
      std::vector<CommunicationThread::Ticket> tickets;
      for (size_t bucket = 0; bucket < totals.size(); ++bucket)
        tickets.push_back(thread.submit([&totals, bucket, rank](Communicator& communicator) {
          totals[bucket] = sparse_allreduce(
              communicator, SparseStream(9000, {{static_cast<uint32_t>(rank), 1.0f}, {100, 0.5f}}), {.label = bucket});
        }));
      for (size_t bucket = 0; bucket < totals.size(); ++bucket) {
        thread.wait(tickets[bucket]);
        EXPECT_EQ(totals[bucket], SparseStream(9000, {{0, 1}, {1, 1}, {2, 1}, {100, 1.5f}}));
      }
    });
  for (std::thread& rank : ranks) rank.join();
}

}  // namespace
}  // namespace nibble
