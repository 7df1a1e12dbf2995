#include "tests/comm/sparse_checks.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "tensor/dtype.hpp"
#include "tests/comm/byte_codec.hpp"

namespace nibble {
namespace {

constexpr SparseAlgorithm algorithms[] = {SparseAlgorithm::recursive_doubling, SparseAlgorithm::split,
                                          SparseAlgorithm::dense_split};

/// What `rank` contributes; of `exact` ones every sum is exact: multiples of 2^-10 far below 2^13.
SparseStream contribution(int rank, int64_t length, double density, bool exact) {
  std::mt19937 random(static_cast<uint32_t>(71 * rank + length));
  std::bernoulli_distribution chosen(density);
  std::vector<SparseEntry> entries;
  for (int64_t i = 0; i < length; ++i) {
    if (!chosen(random)) continue;
    const auto number = static_cast<float>(static_cast<int>(random() % 200'001) - 100'000);
    entries.push_back({static_cast<uint32_t>(i), exact ? std::ldexp(number + 0.0f, -10)
                                                       : std::ldexp(number + 0.5f, -static_cast<int>(random() % 40))});
  }
  return SparseStream(length, std::move(entries));
}

std::vector<float> all_of(const SparseStream& stream) {
  std::vector<float> all(static_cast<size_t>(stream.length()), -1.0f);
  stream.write(all);
  return all;
}

/// Which zero it is makes no difference.
int64_t differences(std::span<const float> seen, std::span<const float> expected) {
  EXPECT_EQ(seen.size(), expected.size());
  int64_t wrong = 0;
  for (size_t i = 0; i < std::min(seen.size(), expected.size()); ++i)
    wrong += std::bit_cast<uint32_t>(seen[i] + 0.0f) != std::bit_cast<uint32_t>(expected[i] + 0.0f);
  return wrong;
}

std::vector<float> sum_in_order(int ranks, int64_t length, double density, bool exact) {
  std::vector<float> total(static_cast<size_t>(length));
  for (int rank = 0; rank < ranks; ++rank) contribution(rank, length, density, exact).add_to(total);
  return total;
}

/// As recursive doubling adds: spare ranks to their neighbours, then neighbours in pairs.
std::vector<float> sum_in_tree(int ranks, int64_t length, double density) {
  const auto doubling = std::bit_floor(static_cast<size_t>(ranks)), spare = static_cast<size_t>(ranks) - doubling;
  std::vector<std::vector<float>> totals;
  for (int rank = 0; rank < ranks; ++rank) totals.push_back(all_of(contribution(rank, length, density, false)));
  const auto join = [&](size_t left) {
    for (size_t i = 0; i < totals[left].size(); ++i) totals[left][i] += totals[left + 1][i];
    totals.erase(totals.begin() + static_cast<ptrdiff_t>(left) + 1);
  };
  for (size_t pair = 0; pair < spare; ++pair) join(pair);
  while (totals.size() > 1)
    for (size_t pair = 0; pair < totals.size(); ++pair) join(pair);
  return totals.front();
}

}  // namespace

void check_exact_sums(Communicator& communicator) {
  const int ranks = communicator.size();
  uint64_t label = 0;
  for (const int64_t length : {0, 1, 3, 700, 5 * 512, 20 * 512 + 17})
    for (const double density : {0.0, 0.004, 0.1, 0.3, 0.8})
      for (const SparseAlgorithm algorithm : algorithms) {
        const SparseStream total =
            sparse_allreduce(communicator, contribution(communicator.rank(), length, density, true),
                             {.algorithm = algorithm, .label = ++label});
        EXPECT_EQ(differences(all_of(total), sum_in_order(ranks, length, density, true)), 0)
            << fmt::format("{} of {} elements, density {}", name(algorithm), length, density);
      }
}

void check_order_of_sums(Communicator& communicator) {
  const int ranks = communicator.size();
  constexpr int64_t length = 12 * 512 + 100;
  for (const double density : {0.12, 0.9}) {
    const SparseStream mine = contribution(communicator.rank(), length, density, false);
    const std::vector<float> in_order = sum_in_order(ranks, length, density, false);
    const std::vector<float> in_tree = sum_in_tree(ranks, length, density);
    for (const SparseAlgorithm algorithm : algorithms) {
      const std::vector<float> total = all_of(sparse_allreduce(communicator, mine, {.algorithm = algorithm}));
      const bool tree = algorithm == SparseAlgorithm::recursive_doubling;
      EXPECT_EQ(differences(total, tree ? in_tree : in_order), 0) << name(algorithm);
      if (ranks > 3) {
        EXPECT_GT(differences(total, tree ? in_order : in_tree), 0) << "the order of the sum does not show";
      }
    }
  }
}

void check_sparse_equal_on_all_ranks(Communicator& communicator) {
  constexpr int64_t length = 30 * 512 + 5;
  const ByteCodec codec;
  for (const SparseAlgorithm algorithm : algorithms)
    for (const Wire wire : {Wire::f32, Wire::bf16})
      for (const DenseCodec* second :
           {static_cast<const DenseCodec*>(nullptr), static_cast<const DenseCodec*>(&codec)}) {
        const SparseStream mine = contribution(communicator.rank(), length, 0.05, false);
        const SparseStream total = sparse_allreduce(
            communicator, mine,
            {.algorithm = algorithm, .contributions = wire, .sums = wire, .codec = second, .label = 3});
        const std::vector<float> values = all_of(total);
        const std::string bits(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
        for (const std::string& theirs : gather_all(communicator, bits)) EXPECT_TRUE(theirs == bits) << name(algorithm);
        const std::vector<float> exact = sum_in_order(communicator.size(), length, 0.05, false);
        const bool changed = wire == Wire::bf16 || (second && algorithm == SparseAlgorithm::dense_split);
        double error = 0, square = 0;
        for (size_t i = 0; i < exact.size(); ++i) {
          error += std::pow(double{values[i]} - double{exact[i]}, 2);
          square += std::pow(double{exact[i]}, 2);
        }
        EXPECT_LT(error, square * (changed ? 1e-3 : 1e-10)) << name(algorithm);
        if (changed) {
          EXPECT_GT(error, 0) << name(algorithm);
        }
      }
}

}  // namespace nibble
