// The choice of a sum against what the ways cost that were not chosen.
#include "comm/exchange_cost.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <random>

#include "tests/comm/byte_codec.hpp"
#include "tests/comm/rank_threads.hpp"

namespace nibble {
namespace {

constexpr LinkCost gigabit{.latency = 50e-6, .per_byte = 8e-9};

const SumCost& cost_of(const std::vector<SumCost>& costs, SumWay way) {
  return *std::ranges::find(costs, way, &SumCost::way);
}

TEST(ExchangeCost, ExpectsTheEntriesOfTheReferencesTable) {
  const struct {
    double density;
    int ranks;
    double percent;
  } rows[] = {{0.001, 4, 0.399},  {0.00390625, 8, 3.08}, {0.0078125, 16, 11.8}, {0.015625, 32, 39.6},
              {0.03125, 4, 11.9}, {0.1, 8, 57.0},        {0.1, 1, 10.0}};
  for (const auto& row : rows)
    EXPECT_NEAR(expected_entries(1 << 30, row.density * (1 << 30), row.ranks) / (1 << 30) * 100, row.percent,
                row.percent * 0.005);
  EXPECT_EQ(expected_entries(0, 0, 5), 0);
  EXPECT_EQ(expected_entries(100, 100, 3), 100);
}

TEST(ExchangeCost, FollowsTheFormulas) {
  const SumSize size{.ranks = 4, .length = 1 << 24, .entries = 131'072};
  const std::vector<SumCost> costs = sum_costs(size, gigabit);
  const double dense = 2 * 0.75 * (1 << 24) * 4;
  EXPECT_DOUBLE_EQ(cost_of(costs, SumWay::dense).bytes, dense);
  EXPECT_NEAR(cost_of(costs, SumWay::dense).seconds, dense * 8e-9 + 6 * 50e-6, 1e-12);
  // 41 bits an entry, 10 for each bucket of 512.
  const double k = 131'072, sum = expected_entries(1 << 24, k, 4), buckets = 32'768;
  EXPECT_NEAR(cost_of(costs, SumWay::split).bytes, 0.75 * (41 * (k + sum) + 20 * buckets) / 8, 1000);
  EXPECT_NEAR(cost_of(costs, SumWay::dense_split).bytes, 0.75 * ((41 * k + 10 * buckets) / 8 + 4 * (1 << 24)), 1000);
}

TEST(ExchangeCost, IsNeverSparseWhereThatSendsMore) {
  const ByteCodec codec;
  for (const int ranks : {1, 2, 3, 4, 7, 16, 100})
    for (const int64_t length : {0, 1, 100, 5000, 1 << 24})
      for (const double density : {0.0, 1e-4, 0.0078, 0.03, 0.1, 0.3, 0.5, 0.9, 1.0})
        for (const Wire dense : {Wire::f32, Wire::bf16})
          for (const LinkCost& link : {gigabit, LinkCost{1e-3, 1e-10}, LinkCost{1e-7, 1e-6}}) {
            const SumSize size{.ranks = ranks,
                               .length = length,
                               .entries = static_cast<int64_t>(density * static_cast<double>(length)),
                               .dense = dense,
                               .codec = dense == Wire::bf16 ? &codec : nullptr};
            const SumChoice choice = choose_sum(size, link);
            const SumCost &chosen = cost_of(choice.costs, choice.way), &full = choice.costs.front();
            EXPECT_LE(chosen.bytes, full.bytes);
            EXPECT_LE(chosen.seconds, full.seconds);
            if (ranks == 1) {
              EXPECT_EQ(choice.way, SumWay::dense);
            }
          }
}

TEST(ExchangeCost, TakesTheWayThatTheSizeAsksFor) {
  const auto chosen = [](int64_t length, double density, int ranks, const LinkCost& link) {
    return choose_sum({.ranks = ranks,
                       .length = length,
                       .entries = static_cast<int64_t>(density * static_cast<double>(length))},
                      link)
        .way;
  };
  EXPECT_EQ(chosen(1 << 16, 0.0078, 8, {.latency = 1e-3, .per_byte = 8e-9}), SumWay::recursive_doubling);
  EXPECT_EQ(chosen(1 << 24, 0.0078, 6, gigabit), SumWay::split);
  EXPECT_EQ(chosen(1 << 24, 0.1, 16, gigabit), SumWay::dense_split);
  EXPECT_EQ(chosen(1 << 24, 0.9, 4, gigabit), SumWay::dense);
}

TEST(ExchangeCost, CountsWhatWasMeasuredOfComputing) {
  const SumSize size{.ranks = 4, .length = 1 << 24, .entries = 1 << 20, .dense = Wire::bf16};
  EXPECT_EQ(choose_sum(size, gigabit).way, SumWay::recursive_doubling);
  LinkCost slow_processor = gigabit;
  slow_processor.computing = {1.2, 9, 9, 9};
  const SumChoice choice = choose_sum(size, slow_processor);
  EXPECT_EQ(choice.way, SumWay::dense);
  for (const SumWay way : all_ways)
    EXPECT_DOUBLE_EQ(cost_of(choice.costs, way).seconds, cost_of(sum_costs(size, gigabit), way).seconds *
                                                             slow_processor.computing[static_cast<size_t>(way)]);
}

/// Counts what a rank starts, over another communicator.
class CountingCommunicator final : public Communicator {
 public:
  explicit CountingCommunicator(Communicator& under) : under_(under) {}
  int rank() const override { return under_.rank(); }
  int size() const override { return under_.size(); }
  void abandon() override { under_.abandon(); }
  size_t messages() const { return messages_; }

 private:
  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override {
    messages_ += std::max(sends.size(), receives.size());
    under_.start(sends, receives);
  }
  void do_finish() override { under_.finish(); }

  Communicator& under_;
  size_t messages_ = 0;
};

struct Sent {
  double messages = 0, bytes = 0;
};

SparseStream random_stream(int rank, int64_t length, double density) {
  std::mt19937 random(static_cast<uint32_t>(rank));
  std::vector<SparseEntry> entries;
  for (int64_t i = 0; i < length; ++i)
    if (std::bernoulli_distribution(density)(random)) entries.push_back({static_cast<uint32_t>(i), 1.0f});
  return SparseStream(length, std::move(entries));
}

/// What the busiest rank sends, counted.
std::map<SumWay, Sent> counted(int ranks, int64_t length, double density) {
  std::map<SumWay, Sent> most;
  std::mutex mutex;
  run_on_ranks(ranks, [&](Communicator& under) {
    for (const SumWay way : all_ways) {
      CountingCommunicator communicator(under);
      const SparseStream mine = random_stream(under.rank(), length, density);
      if (way == SumWay::dense) {
        std::vector<float> values(static_cast<size_t>(length));
        Parts parts;
        for (int r = 0; r < ranks; ++r) {
          const auto first = static_cast<size_t>(part_begin(length, ranks, r));
          const auto end = static_cast<size_t>(part_begin(length, ranks, r + 1));
          parts.push_back({std::as_writable_bytes(std::span(values).subspan(first, end - first))});
        }
        reduce_scatter(communicator, parts, Wire::f32);
        all_gather(communicator, parts);
      } else {
        sparse_allreduce(communicator, mine, {.algorithm = algorithm_of(way)});
      }
      const std::lock_guard lock(mutex);
      Sent& sent = most[way];
      sent.messages = std::max(sent.messages, static_cast<double>(communicator.messages()));
      sent.bytes = std::max(sent.bytes, static_cast<double>(communicator.bytes_sent()));
    }
  });
  return most;
}

TEST(ExchangeCost, ChoosesWithinFifteenPercentOfTheBestByCountedMessagesAndBytes) {
  constexpr int64_t length = 160 * 512;
  int sparse_choices = 0, dense_choices = 0;
  for (const int ranks : {2, 3, 4, 5, 8})
    for (const double density : {0.0005, 0.004, 0.0078, 0.031, 0.1, 0.3}) {
      const std::map<SumWay, Sent> sent = counted(ranks, length, density);
      const SumSize size{
          .ranks = ranks, .length = length, .entries = static_cast<int64_t>(density * static_cast<double>(length))};
      for (const LinkCost& link : {gigabit, LinkCost{1e-3, 8e-9}, LinkCost{1e-6, 8e-9}, LinkCost{50e-6, 8e-8}}) {
        const auto seconds = [&](SumWay way) {
          return sent.at(way).messages * link.latency + sent.at(way).bytes * link.per_byte;
        };
        double best = seconds(SumWay::dense);
        for (const SumWay way : all_ways)
          if (sent.at(way).bytes < sent.at(SumWay::dense).bytes) best = std::min(best, seconds(way));
        const SumChoice choice = choose_sum(size, link);
        EXPECT_LE(seconds(choice.way), 1.15 * best) << describe(choice);
        (choice.way == SumWay::dense ? dense_choices : sparse_choices) += 1;
      }
      EXPECT_NEAR(cost_of(sum_costs(size, gigabit), SumWay::split).bytes, sent.at(SumWay::split).bytes,
                  0.1 * sent.at(SumWay::split).bytes);
    }
  EXPECT_GT(sparse_choices, 30);
  EXPECT_GT(dense_choices, 2);
}

TEST(ExchangeCost, AllRanksAgreeThoughTheyHaveMeasuredOtherwise) {
  run_on_ranks(3, [](Communicator& communicator) {
    const double rank = communicator.rank();
    const SumChoice choice = agree_on_sum(communicator, {.length = 1 << 20, .entries = 1000 + 50 * communicator.rank()},
                                          {.latency = 1e-5 * (3 - rank), .per_byte = 1e-9 * (1 + rank)});
    EXPECT_EQ(choice.size.ranks, 3);
    EXPECT_EQ(choice.size.entries, 1100);
    EXPECT_DOUBLE_EQ(choice.link.latency, 3e-5);
    EXPECT_DOUBLE_EQ(choice.link.per_byte, 3e-9);
    for (const std::string& theirs : gather_all(communicator, describe(choice))) EXPECT_EQ(theirs, describe(choice));
  });
}

TEST(ExchangeCost, IsToldInOneLine) {
  const std::string text = describe(choose_sum({.ranks = 4, .length = 1 << 24, .entries = 131'072}, gigabit));
  for (const char* part : {"recursive doubling sum of 4 ranks", "131072 of 16777216", "0.781%", "50 us", "125 MB/s",
                           "dense 100.7 MB", "split 2.5", "dense split 50."})
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace nibble
