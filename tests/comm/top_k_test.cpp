// Top-k against a stable sort by magnitude.
#include "comm/top_k.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/comm/top_k_inputs.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using test::Input;
using test::inputs;

constexpr float infinity = std::numeric_limits<float>::infinity();

float magnitude(float value) { return std::isnan(value) ? infinity : std::fabs(value); }

/// The indices of elements [first, first + count), the largest first.
std::vector<uint32_t> by_magnitude(std::span<const float> values, size_t first, size_t count) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), static_cast<uint32_t>(first));
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return magnitude(values[a]) > magnitude(values[b]); });
  return order;
}

/// The first k of them, ascending.
std::vector<uint32_t> largest(std::vector<uint32_t> order, size_t k) {
  order.resize(std::min(k, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

void expect_kept(const SparseStream& seen, std::span<const float> values, const std::vector<uint32_t>& expected,
                 const std::string& what) {
  ASSERT_FALSE(seen.dense());
  ASSERT_EQ(seen.length(), static_cast<int64_t>(values.size()));
  ASSERT_EQ(seen.entries().size(), expected.size()) << what;
  int64_t wrong = 0;
  for (size_t i = 0; i < expected.size(); ++i)
    wrong += seen.entries()[i].index != expected[i] ||
             std::bit_cast<uint32_t>(seen.entries()[i].value) != std::bit_cast<uint32_t>(values[expected[i]]);
  EXPECT_EQ(wrong, 0) << what;
}

TEST(TopK, KeepsTheLargestOfEachBucketAndTheFirstOfEqualOnes) {
  Stream stream(1);
  for (const size_t count : {0u, 1u, 15u, 16u, 511u, 512u, 513u, 3 * 512u + 37u})
    for (const Input& input : inputs(count)) {
      std::vector<std::vector<uint32_t>> orders;
      for (size_t first = 0; first < count; first += 512)
        orders.push_back(by_magnitude(input.values, first, std::min<size_t>(512, count - first)));
      for (const int k : {1, 2, 4, 5, 8, 16, 17, 33, 51, 128, 129, 300, 511, 512}) {
        std::vector<uint32_t> expected;
        for (const std::vector<uint32_t>& order : orders) {
          const std::vector<uint32_t> kept = largest(order, static_cast<size_t>(k));
          expected.insert(expected.end(), kept.begin(), kept.end());
        }
        expect_kept(top_k_of_buckets(stream, input.values, k), input.values, expected,
                    input.name + ", " + std::to_string(count) + " elements, k " + std::to_string(k));
      }
    }
}

TEST(TopK, KeepsTheLargestOfAllAndTheFirstOfEqualOnes) {
  Stream stream(1);
  for (const size_t count : {0u, 1u, 1000u, 20'001u})
    for (const Input& input : inputs(count)) {
      const std::vector<uint32_t> order = by_magnitude(input.values, 0, count);
      for (const size_t k : {size_t{1}, size_t{7}, size_t{500}, size_t{15'000}, std::max<size_t>(count, 1)})
        expect_kept(top_k(stream, input.values, static_cast<int64_t>(k)), input.values, largest(order, k),
                    input.name + ", " + std::to_string(count) + " elements, k " + std::to_string(k));
    }
}

TEST(TopK, DoesNotDependOnTheNumberOfThreads) {
  for (const Input& input : inputs(530'123)) {
    Stream one(1);
    const SparseStream of_buckets = top_k_of_buckets(one, input.values, 4), of_all = top_k(one, input.values, 4000);
    Stream three(3);
    EXPECT_TRUE(std::ranges::equal(top_k_of_buckets(three, input.values, 4).entries(), of_buckets.entries(), {},
                                   &SparseEntry::index, &SparseEntry::index))
        << input.name;
    EXPECT_TRUE(std::ranges::equal(top_k(three, input.values, 4000).entries(), of_all.entries(), {},
                                   &SparseEntry::index, &SparseEntry::index))
        << input.name;
  }
}

TEST(TopK, RefusesToKeepNothingOrMoreThanABucketHas) {
  Stream stream(1);
  const std::vector<float> values(600);
  for (const int k : {-1, 0, 513})
    expect_error(ErrorKind::configuration, {"Top-k", std::to_string(k), "1 to 512"},
                 [&] { top_k_of_buckets(stream, values, k); });
  expect_error(ErrorKind::configuration, {"Top-k", "0"}, [&] { top_k(stream, values, 0); });
}

}  // namespace
}  // namespace nibble
