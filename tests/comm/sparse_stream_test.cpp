// Sums, parts and concatenations of streams against those of the whole vectors.
#include "comm/sparse_stream.hpp"

#include <gtest/gtest.h>

#include <random>

#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

std::vector<float> all_of(const SparseStream& stream) {
  std::vector<float> all(static_cast<size_t>(stream.length()), -1.0f);
  stream.write(all);
  return all;
}

/// Every element has an entry with this probability, a multiple of 2^-10.
SparseStream random_stream(uint32_t seed, int64_t length, double density) {
  std::mt19937 random(seed);
  std::vector<SparseEntry> entries;
  for (int64_t i = 0; i < length; ++i)
    if (std::bernoulli_distribution(density)(random))
      entries.push_back({static_cast<uint32_t>(i), std::ldexp(static_cast<float>(random() % 4000 + 1), -10)});
  return SparseStream(length, std::move(entries));
}

SparseStream dense(SparseStream stream) {
  stream.make_dense();
  return stream;
}

TEST(SparseStream, AddsUpAsTheReferencesExample) {
  const SparseStream a(16, {{1, 1.5f}, {4, -2}, {9, 0.25f}}), b(16, {{4, 2}, {5, 1}, {15, -0.5f}});
  EXPECT_EQ(sum(a, b), SparseStream(16, {{1, 1.5f}, {4, 0}, {5, 1}, {9, 0.25f}, {15, -0.5f}})) << "cancelled ones stay";
}

TEST(SparseStream, BecomesDenseWhereThatIsNotLonger) {
  EXPECT_EQ(dense_switch(16), 8);
  EXPECT_EQ(dense_switch(15), 8);  // 7 entries take 56 bytes, 15 values 60, 8 entries 64
  EXPECT_EQ(dense_switch(12, 4, 8), 8);
  EXPECT_EQ(dense_switch(12, 4, 2), 4);
  EXPECT_EQ(dense_switch(12, 2, 4), 8);
  const SparseStream four(16, {{0, 1}, {1, 1}, {2, 1}, {3, 1}}), three(16, {{0, 1}, {1, 1}, {2, 1}});
  EXPECT_FALSE(sum(four, three).dense());
  EXPECT_TRUE(sum(four, four).dense()) << "the bound counts entries, whether or not they share an index";
}

TEST(SparseStream, SumsAreThoseOfTheVectorsInEveryForm) {
  for (const double density : {0.0, 0.01, 0.2, 0.6, 1.0}) {
    const SparseStream a = random_stream(1, 1000, density), b = random_stream(2, 1000, 0.1);
    std::vector<float> expected = all_of(a);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += all_of(b)[i];
    for (const SparseStream& first : {a, dense(a)})
      for (const SparseStream& second : {b, dense(b)}) {
        EXPECT_EQ(all_of(sum(first, second)), expected);
        EXPECT_EQ(all_of(sum(second, first)), expected);
        EXPECT_EQ(sum(first, second).dense(), first.dense() || second.dense() || a.count() + b.count() >= 500);
      }
  }
}

TEST(SparseStream, PartsJoinToTheWhole) {
  for (const double density : {0.0, 0.02, 0.4, 0.9})
    for (const SparseStream& whole : {random_stream(3, 700, density), dense(random_stream(3, 700, density))}) {
      std::vector<SparseStream> parts;
      const int64_t cuts[] = {0, 0, 1, 130, 131, 131, 512, 700, 700};
      for (size_t i = 1; i < std::size(cuts); ++i) {
        parts.push_back(part_of(whole, cuts[i - 1], cuts[i] - cuts[i - 1]));
        EXPECT_EQ(parts.back().length(), cuts[i] - cuts[i - 1]);
      }
      EXPECT_EQ(all_of(concatenate(parts)), all_of(whole));
      if (density < 0.1 && !whole.dense()) {
        EXPECT_EQ(part_of(whole, 131, 381).dense(), false);
      }
    }
  EXPECT_EQ(concatenate({}).length(), 0);
}

TEST(SparseStream, RefusesEntriesThatAreNotInOrderOrNotInside) {
  for (const std::vector<SparseEntry>& entries :
       {std::vector<SparseEntry>{{3, 1}, {2, 1}}, {{3, 1}, {3, 1}}, {{0, 1}, {10, 1}}, {{4'000'000'000u, 1}}})
    expect_error(ErrorKind::communication, {"ascend", "a stranger", "below 10"},
                 [&] { SparseStream::checked(10, entries, "a stranger"); });
  for (const int64_t length : {int64_t{-1}, (int64_t{1} << 32) + 1})
    expect_error(ErrorKind::communication, {"a stranger", std::to_string(length)},
                 [&] { SparseStream::checked(length, {}, "a stranger"); });
  EXPECT_EQ(SparseStream::checked(int64_t{1} << 32, {{0xffffffffu, 1}}, "").count(), 1);
  expect_error(ErrorKind::configuration, {"2^32"}, [] { check_indexable((int64_t{1} << 32) + 1); });
}

// E[K] = N (1 - (1 - q)^P): what the supports of P ranks have in common.
TEST(SparseStream, FillsInAsIndependentSupportsDo) {
  constexpr int64_t length = 200'000;
  for (const double density : {0.00391, 0.01563}) {
    SparseStream total(length);
    for (int ranks = 1; ranks <= 8; ++ranks) {
      total = sum(total, random_stream(static_cast<uint32_t>(100 + ranks), length, density));
      const double expected = length * (1 - std::pow(1 - density, ranks));
      EXPECT_NEAR(static_cast<double>(total.count()), expected, 5 * std::sqrt(expected)) << ranks;
      EXPECT_FALSE(total.dense());
    }
  }
}

}  // namespace
}  // namespace nibble
