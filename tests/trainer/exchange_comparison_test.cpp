// Comparisons of sums: what they say of bytes and errors, and names that are none.
#include "trainer/exchange_comparison.hpp"

#include <gtest/gtest.h>

#include "tests/comm/rank_threads.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

constexpr int ranks = 3;
constexpr int64_t elements = 3 * 4096;

std::vector<SumMeasurement> compare(const std::vector<std::string>& names, double correlation = 0) {
  std::vector<ComparedSum> sums;
  for (const std::string& name : names) sums.push_back(compared_sum(name, ranks, elements, {}));
  std::vector<SumMeasurement> measured;
  run_on_ranks(ranks, [&](Communicator& communicator) {
    const std::vector<SumMeasurement> mine =
        compare_sums(communicator, sums, {.elements = elements, .repeats = 2, .correlation = correlation});
    if (communicator.rank() == 0) measured = mine;
  });
  return measured;
}

TEST(ExchangeComparison, CountsBytesAndErrors) {
  const auto seen = compare({"dense", "dense-bf16", "top-1%-split", "top-1%-maxmin-4", "maxmin-4", "correlated-1"});
  ASSERT_EQ(seen.size(), 6u);
  const SumMeasurement &dense = seen[0], &half = seen[1], &sparse = seen[2], &coded = seen[3], &codes = seen[4],
                       &counts = seen[5];
  EXPECT_EQ(dense.error, 0);
  EXPECT_EQ(dense.bytes, 2.0 * elements * 4 * (ranks - 1) / ranks);
  EXPECT_EQ(half.bytes, dense.bytes / 2);
  EXPECT_LT(half.error, 0.005);
  EXPECT_LT(sparse.bytes, dense.bytes / 20);
  EXPECT_GT(sparse.error, 0.5);
  EXPECT_GT(coded.bytes, sparse.bytes);
  EXPECT_NE(coded.way.find("maxmin-4"), std::string::npos);
  // Two messages of codes, each with two scales in 1024 values and a byte of status.
  EXPECT_NEAR(codes.bytes, dense.bytes / 8, 0.02 * dense.bytes);
  EXPECT_LT(counts.bytes, codes.bytes);
  for (const SumMeasurement& sum : seen) {
    EXPECT_GT(sum.seconds, 0);
    EXPECT_EQ(sum.seconds_from_streams > 0, sum.name.starts_with("top"));
  }
}

TEST(ExchangeComparison, SupportsOverlapWhereRanksAreAlike) {
  const auto bytes = [](double correlation) { return compare({"top-10%-split"}, correlation).front().bytes; };
  EXPECT_LT(bytes(1), 0.8 * bytes(0));
}

TEST(ExchangeComparison, BreaksEvenWhereBytesSavedTakeAsLongAsTheProcessor) {
  const SumMeasurement dense{.name = "", .way = "", .processor_seconds = 1, .bytes = 1000},
      codes{.name = "", .way = "", .processor_seconds = 3, .bytes = 200},
      cheap{.name = "", .way = "", .processor_seconds = 0.5, .bytes = 200};
  EXPECT_EQ(break_even_rate(codes, dense), 400);
  EXPECT_FALSE(break_even_rate(cheap, dense));
}

TEST(ExchangeComparison, NamesThatAreNoneAreRefused) {
  for (const char* name : {"topk", "top-", "top-0%", "top-200%", "top-1%-qsgd-9", "maxmin-5", "dense-f16"})
    expect_error(ErrorKind::configuration, {"seen:", "allowed:"}, [&] { compared_sum(name, 4, 1000, {}); });
}

}  // namespace
}  // namespace nibble
