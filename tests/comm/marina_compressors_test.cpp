// What MARINA and EF21 are made of: samples of coordinates, estimates, full steps.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <set>
#include <tuple>

#include "comm/bit_packing.hpp"
#include "comm/coordinate_sample.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/recursive_estimate.hpp"
#include "tests/comm/code_trials.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

const WireWork on_host(nullptr);

TEST(RandomOrder, HasEveryPlaceOnce) {
  for (const int64_t count : {1, 2, 3, 5, 16, 17, 100, 1000, 4097}) {
    const RandomOrder order(count, RandomStream(3, gradient_codes, 1), 9);
    std::set<int64_t> seen;
    for (int64_t i = 0; i < count; ++i) seen.insert(order[i]);
    EXPECT_EQ(static_cast<int64_t>(seen.size()), count);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), count - 1);
  }
}

TEST(RandomOrder, PutsEveryNumberAtEveryPlaceEquallyOften) {
  constexpr int64_t count = 5;
  constexpr uint32_t orders = 5000;
  std::vector<int> at(count * count);
  for (uint32_t step = 0; step < orders; ++step) {
    const RandomOrder order(count, RandomStream(3, gradient_codes, step), 9);
    for (int64_t i = 0; i < count; ++i) ++at[static_cast<size_t>(count * i + order[i])];
  }
  const double expected = orders / 5.0, standard_error = std::sqrt(expected * 0.8);
  for (const int times : at) EXPECT_NEAR(times, expected, 5 * standard_error);
}

TEST(CoordinateSample, OfAPermutationIsExactForEqualVectors) {
  for (const int ranks : {1, 2, 3, 5, 7, 8})
    for (const int64_t count : {1, 5, 8, 1001}) {
      const std::vector<float> values = normal_values(count, 3);
      std::vector<float> sum(values.size());
      int64_t sent = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const CoordinateSample sample = CoordinateSample::permutation(count, ranks, {.step = 4, .rank = rank});
        EXPECT_LE(std::abs(sample.size() - count / ranks), 1);
        std::vector<float> message(static_cast<size_t>(sample.size()));
        sample.select(values, message);
        sample.add(message, sum);
        sent += sample.size();
      }
      EXPECT_EQ(sent, count);
      for (size_t i = 0; i < sum.size(); ++i) EXPECT_EQ(sum[i], static_cast<float>(ranks) * values[i]);
    }
}

TEST(CoordinateSample, OfRandomCoordinatesIsUnbiasedWithTheVarianceOfTheTheory) {
  const std::vector<float> values = normal_values(64, 5);
  double error = 0;
  constexpr uint32_t trials = 20'000;
  EXPECT_LT(largest_bias_in_standard_errors(values, trials,
                                            [&](uint32_t trial) {
                                              const auto sample = CoordinateSample::random(64, 8, {.step = trial});
                                              std::vector<float> message(8), decoded(64);
                                              sample.select(values, message);
                                              sample.add(message, decoded);
                                              error += squared_distance(decoded, values) / trials;
                                              return decoded;
                                            }),
            5);
  EXPECT_NEAR(error, 7 * squared_norm(values), 0.05 * 7 * squared_norm(values));
  for (const int64_t kept : {-1, 0, 65})
    expect_error(ErrorKind::configuration, {"1 to 64"}, [&] { CoordinateSample::random(64, kept, {}); });
}

TEST(RecursiveEstimate, OfUncompressedDifferencesIsTheGradient) {
  RecursiveEstimate estimate(256);
  std::vector<float> before(256), difference(256);
  for (uint32_t step = 0; step < 100; ++step) {
    const std::vector<float> gradient = normal_values(256, step);
    for (size_t i = 0; i < gradient.size(); ++i) difference[i] = gradient[i] - before[i];
    estimate.move_by(on_host, difference);
    estimate.commit();
    before = gradient;
  }
  EXPECT_LT(squared_distance(estimate.value(), before), 1e-10 * squared_norm(before));
}

TEST(RecursiveEstimate, ChangesOnlyWhenTheStepCounts) {
  RecursiveEstimate estimate(2);
  estimate.replace(on_host, std::vector{1.0f, 2.0f});
  EXPECT_EQ(estimate.value()[1], 0);
  EXPECT_EQ(estimate.next()[1], 2);
  estimate.discard();
  EXPECT_EQ(estimate.next()[1], 0);
  estimate.commit();
  EXPECT_EQ(estimate.value()[1], 0);
  estimate.replace(on_host, std::vector{1.0f, 2.0f});
  estimate.commit();
  estimate.move_by(on_host, std::vector{0.5f, -1.0f});
  EXPECT_EQ(estimate.value()[1], 2);
  estimate.commit();
  EXPECT_EQ(estimate.value()[1], 1);
}

/// EF21 with a contractive compressor (Top-1 of 8) on gradients that stand still.
TEST(RecursiveEstimate, OfEf21ReachesAGradientThatStandsStill) {
  const std::vector<float> gradient = normal_values(8, 3);
  RecursiveEstimate own(8);
  for (int step = 0; step < 8; ++step) {
    std::vector<float> sent(8);
    size_t largest = 0;
    for (size_t i = 0; i < sent.size(); ++i)
      if (std::abs(gradient[i] - own.value()[i]) > std::abs(gradient[largest] - own.value()[largest])) largest = i;
    sent[largest] = gradient[largest] - own.value()[largest];
    own.move_by(on_host, sent);
    own.commit();
  }
  EXPECT_TRUE(std::ranges::equal(own.value(), gradient));
}

TEST(FullSteps, AreTheFirstOfSoManyRanksAndThenAsLikelyAsAskedFor) {
  FullSteps steps(7, 0.125, 4);
  EXPECT_TRUE(steps.is_full(10));
  EXPECT_TRUE(steps.is_full(11));
  steps.commit();
  int full = 0;
  for (uint32_t step = 12; step < 8012; ++step) full += steps.is_full(step);
  EXPECT_NEAR(full, 1000, 5 * std::sqrt(1000 * 0.875));

  FullSteps resumed(7, 0.125, 4), other_seed(8, 0.125, 4);
  EXPECT_TRUE(resumed.is_full(500));
  resumed.commit();
  other_seed.commit();
  int differing = 0;
  for (uint32_t step = 501; step < 1000; ++step) {
    EXPECT_EQ(resumed.is_full(step), steps.is_full(step));
    differing += other_seed.is_full(step) != steps.is_full(step);
  }
  EXPECT_GT(differing, 50);
  FullSteps always(7, 1, 4), never(7, 0, 4);
  always.commit();
  never.commit();
  for (uint32_t step = 0; step < 100; ++step) EXPECT_TRUE(always.is_full(step) && !never.is_full(step));
}

// The worst case of smooth convex functions, 1/2 x'Ax - b'x with A = tridiagonal(-1, 2, -1) / 4 and b = -e_1 / 4, A
// shifted so that its smallest eigenvalue is 1e-2; all ranks have the same (as in the experiments of
// Szlendak et al., arXiv 2110.03300).
class Quadratic {
 public:
  explicit Quadratic(int64_t size) : size_(static_cast<size_t>(size)) {
    const double smallest = (1 - std::cos(std::numbers::pi / static_cast<double>(size + 1))) / 2;
    shift_ = 1e-2 - smallest;
  }
  std::vector<float> gradient(const std::vector<double>& x) const {
    std::vector<float> g(size_);
    for (size_t i = 0; i < size_; ++i) {
      const double left = i > 0 ? x[i - 1] : 0, right = i + 1 < size_ ? x[i + 1] : 0;
      g[i] = static_cast<float>((2 * x[i] - left - right) / 4 + shift_ * x[i] + (i == 0 ? 0.25 : 0));
    }
    return g;
  }
  double smoothness() const { return (1 + std::cos(std::numbers::pi / static_cast<double>(size_ + 1))) / 2 + shift_; }

 private:
  size_t size_;
  double shift_;
};

/// Bits that a rank sends until |gradient|^2 <= 1e-8: 32 a value in full steps, else one and a range. `a`: the variance
/// of the mean of the ranks' codes, in units of |difference|^2, from which step size and probability follow.
template <class MeanOfCodes>
double bits_of_marina(int64_t size, double a, MeanOfCodes&& mean_of_codes) {
  const Quadratic function(size);
  const double share = (32.0 + double(size)) / (32.0 * double(size));
  double probability = 1, best = INFINITY;
  for (double p = 0.001; p <= 1; p *= 1.02) {
    const double cost = (p + (1 - p) * share) * (1 + std::sqrt((1 - p) / p * a));
    if (cost < best) std::tie(best, probability) = std::pair(cost, p);
  }
  const double step_size = 1 / (function.smoothness() * (1 + std::sqrt((1 - probability) / probability * a)));
  FullSteps full(5, probability, 1);
  std::vector<double> x(static_cast<size_t>(size));
  std::vector<float> before, estimate;
  double bits = 0;
  for (uint32_t step = 0; step < 200'000; ++step) {
    const std::vector<float> gradient = function.gradient(x);
    if (squared_norm(gradient) <= 1e-8) return bits;
    if (full.is_full(step)) {
      estimate = gradient;
      bits += 32.0 * double(size);
    } else {
      std::vector<float> difference(gradient.size());
      std::ranges::transform(gradient, before, difference.begin(), std::minus());
      const std::vector<float> mean = mean_of_codes(difference, step);
      std::ranges::transform(estimate, mean, estimate.begin(), std::plus());
      bits += 32.0 + double(size);
    }
    full.commit();
    before = gradient;
    for (size_t i = 0; i < x.size(); ++i) x[i] -= step_size * estimate[i];
  }
  return INFINITY;
}

TEST(Marina, WithCorrelatedCodesNeedsFewerBitsThanWithIndependentOnes) {
  for (const auto& [size, ranks] : {std::pair{64, 4}, {64, 10}, {64, 50}}) {
    const double d = size, n = ranks;
    const auto independent = [&](const std::vector<float>& difference, uint32_t step) {
      BucketCodec codec(codec_named("independent-1", size, "test"));
      std::vector<float> mean(difference.size());
      for (int rank = 0; rank < ranks; ++rank) {
        const std::vector<float> decoded = round_trip(codec, difference, {.step = step, .rank = rank});
        for (size_t i = 0; i < mean.size(); ++i) mean[i] += decoded[i] / static_cast<float>(n);
      }
      return mean;
    };
    const auto correlated = [&](const std::vector<float>& difference, uint32_t step) {
      CorrelatedCodec codec(codec_named("correlated-1", size, "test"), ranks);
      const CodeSource source{.step = step};
      std::vector<float> prepared(difference.size()), ranges(1), mean(difference.size());
      codec.prepare(difference, source, prepared);
      codec.ranges(prepared, ranges);
      std::vector<uint16_t> counts(difference.size());
      std::vector<std::byte> codes(packed_bytes(size, 1));
      const std::vector<int> order = order_of_ranks(source, ranks);
      for (int rank = 0; rank < ranks; ++rank) {
        codec.encode(prepared, ranges, source.of_rank(rank), order[static_cast<size_t>(rank)], codes);
        codec.count(codes, source.of_rank(rank), counts);
      }
      codec.decode(counts, ranges, source, mean);
      for (float& value : mean) value /= static_cast<float>(n);
      return mean;
    };
    // Worst cases of one bit in the range of the l2 norm.
    const double of_independent = bits_of_marina(size, (d - 1) / n, independent),
                 of_correlated = bits_of_marina(size, d / (n * n), correlated);
    EXPECT_LT(of_independent, 1e9);
    EXPECT_LT(of_correlated, of_independent / 1.2) << size << " values, " << ranks << " ranks";
  }
}

}  // namespace
}  // namespace nibble
