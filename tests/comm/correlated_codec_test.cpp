#include "comm/correlated_codec.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "comm/bit_packing.hpp"
#include "tensor/stream.hpp"
#include "tests/comm/code_trials.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

/// CRC-32C, reflected polynomial 0x82f63b78, bit by bit.
uint32_t crc32c(std::span<const std::byte> bytes) {
  uint32_t crc = ~uint32_t{0};
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

Codec one_bit(int64_t bucket) { return codec_named("correlated-1", bucket, "test"); }

/// All ranks with a common range of one: codes, counts and the decoded sum.
struct Round {
  CorrelatedCodec codec;
  std::vector<std::vector<std::byte>> codes;
  std::vector<uint16_t> counts;
  std::vector<float> sum;

  Round(const Codec& row, const std::vector<std::vector<float>>& values, const CodeSource& source, bool in_order,
        float range = 1)
      : codec(row, static_cast<int>(values.size())), counts(values[0].size()), sum(values[0].size()) {
    const auto buckets = static_cast<size_t>(row.buckets_of(static_cast<int64_t>(sum.size())));
    const std::vector<float> ranges(buckets, range);
    std::vector<int> place = order_of_ranks(source, codec.ranks());
    for (int rank = 0; rank < codec.ranks(); ++rank) {
      codes.emplace_back(packed_bytes(static_cast<int64_t>(sum.size()), row.bits));
      codec.encode(values[static_cast<size_t>(rank)], ranges, source.of_rank(rank),
                   in_order ? rank : place[static_cast<size_t>(rank)], codes.back());
      codec.count(codes.back(), source.of_rank(rank), counts);
    }
    codec.decode(counts, ranges, source, sum);
  }
};

/// In [0, 1] -> [-1, 1], exactly for what is used here.
std::vector<float> centred(std::vector<float> y) {
  for (float& v : y) v = 2 * v - 1;
  return y;
}

constexpr CodeSource vectors{.seed = 0x0123456789abcdef, .step = 7, .first_bucket = 3};

TEST(CorrelatedCodec, HasTheBytesOfItsSpecification) {
  const std::vector<float> y = centred({0, .125f, .25f, .3f, .5f, .65f, .875f, 1});
  const Round round(one_bit(8), std::vector(4, y), vectors, true);
  const uint8_t bytes[] = {0x94, 0xe0, 0xe8, 0xf0};
  for (size_t rank = 0; rank < 4; ++rank) EXPECT_EQ(round.codes[rank], std::vector{std::byte{bytes[rank]}});
  EXPECT_EQ(round.counts, (std::vector<uint16_t>{0, 0, 1, 1, 2, 3, 3, 4}));
  EXPECT_EQ(round.sum, (std::vector<float>{-4, -4, -2, -2, 0, 2, 2, 4}));
}

TEST(CorrelatedCodec, HasTheChecksumsOfItsSpecification) {
  struct Case {
    int64_t ranks, count;
    std::vector<uint32_t> checksums;
    int sum;
  };
  for (const auto& [ranks, count, checksums, sum] :
       {Case{2, 4096, {0x913a3f79, 0xb7acbeb6}, 4157},
        Case{4, 4096, {0x9fc7dcea, 0x303fd4ef, 0x9fa9c8a9, 0xa665722b}, 8233},
        Case{5, 1000, {0x994d4578, 0x271df075, 0xbaa149e3, 0x6c03b2cf, 0x57d5abd8}, 2521}}) {
    std::vector<std::vector<float>> values;
    for (int64_t i = 0; i < ranks; ++i) {
      std::vector<float>& y = values.emplace_back();
      for (int64_t j = 0; j < count; ++j)
        y.push_back(static_cast<float>((j * 2654435761 + i * 40503) % (1 << 20)) * 0x1p-20f);
      y = centred(y);
    }
    const Round round(one_bit(4096), values, vectors, true);
    for (size_t rank = 0; rank < checksums.size(); ++rank) EXPECT_EQ(crc32c(round.codes[rank]), checksums[rank]);
    int total = 0;
    for (const uint16_t c : round.counts) total += c;
    EXPECT_EQ(total, sum);
  }
}

TEST(CorrelatedCodec, IsExactForEqualValuesOnItsLevels) {
  for (const int ranks : {1, 2, 3, 5, 8}) {
    std::vector<float> values;
    for (int i = 0; i <= ranks; ++i) values.push_back(static_cast<float>(2 * i - ranks));
    const Round round(one_bit(64), std::vector(static_cast<size_t>(ranks), values), {.seed = 3, .step = 9}, false,
                      static_cast<float>(ranks));
    for (int i = 0; i <= ranks; ++i) EXPECT_EQ(round.counts[static_cast<size_t>(i)], i) << ranks;
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(round.sum[i], static_cast<float>(ranks) * values[i]);
  }
}

TEST(CorrelatedCodec, IsUnbiased) {
  for (const int bits : {1, 2, 4}) {
    constexpr int ranks = 3;
    const Codec row = codec_named(fmt::format("correlated-{}", bits), 64, "test");
    std::vector<std::vector<float>> values;
    std::vector<float> exact(64);
    for (uint32_t rank = 0; rank < ranks; ++rank) {
      std::vector<float>& x = values.emplace_back(normal_values(64, rank, 0.3f));
      for (size_t i = 0; i < x.size(); ++i) exact[i] += x[i] = std::clamp(x[i], -1.0f, 1.0f);
    }
    EXPECT_LT(
        largest_bias_in_standard_errors(
            exact, 20'000, [&](uint32_t trial) { return Round(row, values, {.seed = 1, .step = trial}, false).sum; }),
        5)
        << bits;
  }
}

/// Exact variance of the sum of the bits for y in [0, 1] with a random order of ranks (Suresh et al., by enumeration).
double variance_of_sum(const std::vector<double>& y) {
  const auto n = static_cast<double>(y.size());
  const auto in_stratum = [&](double value, size_t s) {
    return std::clamp(n * value - static_cast<double>(s), 0.0, 1.0);
  };
  double variance = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    variance += y[i] * (1 - y[i]);
    for (size_t j = 0; j < y.size(); ++j) {
      double both = 0;
      for (size_t s = 0; s < y.size(); ++s) both += in_stratum(y[i], s) * in_stratum(y[j], s);
      if (i != j) variance += (n * y[i] * y[j] - both) / (n * (n - 1));
    }
  }
  return variance;
}
double independent_variance_of_sum(const std::vector<double>& y) {
  double variance = 0;
  for (const double v : y) variance += v * (1 - v);
  return variance;
}

TEST(CorrelatedCodec, HasNoLargerVarianceThanIndependentRoundingWhateverTheValues) {
  EXPECT_NEAR(variance_of_sum({.65, .2, .9, .41}), 0.4144, 5e-5);
  EXPECT_NEAR(independent_variance_of_sum({.65, .2, .9, .41}), 0.7194, 5e-5);
  const RandomStream stream(8, Purpose::initialization);
  for (uint64_t draw = 0; draw < 10'000; ++draw) {
    std::vector<double> y(2 + draw % 7);
    for (size_t i = 0; i < y.size(); ++i) y[i] = stream.uniform(16 * draw + i);
    ASSERT_LE(variance_of_sum(y), independent_variance_of_sum(y) + 1e-15);
  }
}

/// Mean squared error of the sum of bits over many coordinates with the same values, divided by n^2.
double simulated_error_of_mean(const std::vector<double>& y, int rounds) {
  constexpr size_t count = 64;  // the order of ranks is the same for all of them
  std::vector<std::vector<float>> values;
  double exact = 0;
  for (const double v : y) {
    values.emplace_back(count, static_cast<float>(2 * v - 1));
    exact += v;
  }
  double sum = 0;
  for (int step = 0; step < rounds; ++step)
    for (const uint16_t c :
         Round(one_bit(count), values, {.seed = 2, .step = static_cast<uint32_t>(step)}, false).counts)
      sum += (c - exact) * (c - exact);
  const auto n = static_cast<double>(y.size());
  return sum / (rounds * static_cast<double>(count)) / (n * n);
}

TEST(CorrelatedCodec, HasTheVarianceOfTheClosedForm) {
  for (const std::vector<double>& y :
       {std::vector(4, .65), std::vector{.65, .2, .9, .41}, std::vector{.1, .9, .35}, std::vector(7, .3)}) {
    const auto n = static_cast<double>(y.size());
    const double exact = variance_of_sum(y) / (n * n);
    EXPECT_NEAR(simulated_error_of_mean(y, 1500), exact, 0.03 * exact) << y.size();
  }
  EXPECT_NEAR(4 * simulated_error_of_mean(std::vector(4, .65), 1500), 0.06, 0.03 * 0.06);  // on [-1, 1]
  EXPECT_NEAR(4 * independent_variance_of_sum(std::vector(4, .65)) / 16, 0.2275, 1e-9);
}

TEST(CorrelatedCodec, HasTheVariancesOfTheTable) {
  struct Row {
    int ranks;
    double correlated, independent;
  };
  // The mean over y uniform in the middle of the range, the same on all ranks; the table's is over one sample of them.
  for (const auto& [ranks, correlated, independent] :
       {Row{2, 4.77e-2, 9.70e-2}, Row{4, 1.08e-2, 4.96e-2}, Row{8, 2.39e-3, 2.48e-2}, Row{16, 6.65e-4, 1.24e-2}}) {
    double ours = 0, others = 0;
    constexpr int points = 400;
    for (int i = 0; i < points; ++i) {
      const std::vector<double> y(static_cast<size_t>(ranks), 0.1 + 0.8 * (i + 0.5) / points);
      ours += variance_of_sum(y) / (ranks * ranks) / points;
      others += independent_variance_of_sum(y) / (ranks * ranks) / points;
    }
    EXPECT_NEAR(ours, correlated, 0.06 * correlated) << ranks;
    EXPECT_NEAR(others, independent, 0.03 * independent) << ranks;
  }
}

/// Of the mean, a coordinate: k levels against independent stochastic rounding to k levels.
TEST(CorrelatedCodec, HasTheErrorsOfKLevels) {
  struct Case {
    int bits, ranks;
    double error;
  };
  for (const auto& [bits, ranks, error] :
       {Case{2, 4, 1.82e-3}, Case{2, 16, 1.13e-4}, Case{4, 4, 5.25e-5}, Case{4, 16, 3.27e-6}}) {
    constexpr int64_t count = 1024;
    const Codec row = codec_named(fmt::format("correlated-{}", bits), count, "test");
    const RandomStream stream(4, Purpose::initialization);
    std::vector<float> values(count);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 2 * (0.1f + 0.8f * stream.uniform(i)) - 1;
    double sum = 0;
    constexpr int rounds = 200;
    for (int step = 0; step < rounds; ++step) {
      const Round round(row, std::vector(static_cast<size_t>(ranks), values),
                        {.seed = 2, .step = static_cast<uint32_t>(step)}, false);
      for (size_t i = 0; i < values.size(); ++i) {
        const double miss = (double{round.sum[i]} / ranks - values[i]) / 2;  // on [0, 1]
        sum += miss * miss;
      }
    }
    EXPECT_NEAR(sum / (rounds * double{count}), error, 0.05 * error) << bits << " " << ranks;
  }
}

TEST(CorrelatedCodec, TakesAsManyBitsAsTheCountsNeed) {
  for (const auto& [bits, ranks, width] : {std::array{1, 2, 2},
                                           {1, 3, 2},
                                           {1, 4, 3},
                                           {1, 8, 4},
                                           {1, 16, 5},
                                           {1, 64, 7},
                                           {4, 4, 6},
                                           {8, 1, 8},
                                           {8, 257, 16}})
    EXPECT_EQ(CorrelatedCodec(codec_named(fmt::format("correlated-{}", bits), 64, "test"), ranks).count_bits(), width);
  expect_error(ErrorKind::configuration, {"258 ranks", "at most 257"},
               [] { CorrelatedCodec(codec_named("correlated-8", 64, "test"), 258); });
  expect_error(ErrorKind::configuration, {"qsgd-4"}, [] { CorrelatedCodec(codec_named("qsgd-4", 64, "test"), 2); });
}

TEST(CorrelatedCodec, RefusesDamagedCodesAndCounts) {
  CorrelatedCodec codec(codec_named("correlated-2", 64, "test"), 3);
  std::vector<uint16_t> counts(70);
  std::vector<std::byte> codes(packed_bytes(70, 2));
  codec.count(codes, {}, counts);
  expect_error(ErrorKind::communication, {"17 bytes", "18 bytes"},
               [&] { codec.count(std::span(codes).first(17), {}, counts); });
  codes.back() = std::byte{0x10};
  expect_error(ErrorKind::communication, {"bits behind the last code"}, [&] { codec.count(codes, {}, counts); });
  counts.assign(70, 0);
  counts[69] = 10;
  std::vector<float> sum(70);
  expect_error(ErrorKind::communication, {"bucket 1", "sum of codes of 10", "at most 9"},
               [&] { codec.decode(counts, std::vector<float>(2, 1.0f), {}, sum); });
}

TEST(CorrelatedCodec, GivesTheSameBitsWithEveryInstructionSet) {
  for (const char* name : {"correlated-1", "rotated-correlated-4"}) {
    const Codec row = codec_named(name, 256, "test");
    const std::vector<float> values = normal_values(777, 12);
    std::vector<std::vector<std::byte>> codes;
    for (const Isa isa : {Isa::avx2, Stream().isa()}) {
      CorrelatedCodec codec(row, 3, isa);
      std::vector<float> prepared(static_cast<size_t>(row.padded(777))), ranges(4);
      codec.prepare(values, {}, prepared);
      codec.ranges(prepared, ranges);
      codes.emplace_back(packed_bytes(row.padded(777), row.bits));
      codec.encode(prepared, ranges, {}, 1, codes.back());
    }
    EXPECT_EQ(codes[0], codes[1]) << name;
  }
}

TEST(CorrelatedCodec, EveryOrderOfRanksIsDrawn) {
  std::array<int, 3> first{};
  for (uint32_t step = 0; step < 300; ++step) ++first[static_cast<size_t>(order_of_ranks({.step = step}, 3)[0])];
  for (const int times : first) EXPECT_NEAR(times, 100, 40);
}

}  // namespace
}  // namespace nibble
