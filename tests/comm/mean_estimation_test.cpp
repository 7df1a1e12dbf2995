// Which codec estimates a mean best, on normal and on heavy-tailed values: errors of the mean of all ranks, relative to
// the mean, against the reference's table (buckets of 1024).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "comm/bit_packing.hpp"
#include "comm/correlated_codec.hpp"
#include "tests/comm/code_trials.hpp"

namespace nibble {
namespace {

constexpr int64_t bucket = 1024;

struct Data {
  bool heavy_tails;
  int ranks;
  float spread;  ///< standard deviation of what ranks have of their own
};
using Vectors = std::vector<std::vector<float>>;

Vectors vectors_of(const Data& data, uint32_t trial) {
  const std::vector<float> common = data.heavy_tails ? student_values(bucket, trial) : normal_values(bucket, trial);
  Vectors vectors(static_cast<size_t>(data.ranks), common);
  for (uint32_t rank = 0; rank < vectors.size(); ++rank) {
    const std::vector<float> own = normal_values(bucket, 1000 * (rank + 1) + trial, data.spread);
    for (size_t i = 0; i < own.size(); ++i) vectors[rank][i] += own[i];
  }
  return vectors;
}

std::vector<float> mean_of(Codec codec, const Vectors& vectors, uint32_t trial) {
  const int ranks = static_cast<int>(vectors.size());
  std::vector<float> mean(vectors[0].size());
  const CodeSource source{.seed = 9, .step = trial};
  if (codec.rounding == Codec::Rounding::correlated) {
    CorrelatedCodec correlated(codec, ranks);
    Vectors prepared = vectors;
    std::vector<float> range(1), shared(1);
    for (size_t r = 0; r < vectors.size(); ++r) {
      correlated.prepare(vectors[r], source, prepared[r]);
      correlated.ranges(prepared[r], range);
      shared[0] = std::max(shared[0], range[0]);
    }
    const std::vector<int> order = order_of_ranks(source, ranks);
    std::vector<uint16_t> counts(mean.size());
    std::vector<std::byte> codes(packed_bytes(bucket, codec.bits));
    for (int rank = 0; rank < ranks; ++rank) {
      const auto r = static_cast<size_t>(rank);
      correlated.encode(prepared[r], shared, source.of_rank(rank), order[r], codes);
      correlated.count(codes, source.of_rank(rank), counts);
    }
    correlated.decode(counts, shared, source, mean);
  } else {
    BucketCodec alone(codec);
    std::vector<std::byte> message(codec.bytes_of(bucket));
    for (int rank = 0; rank < ranks; ++rank) {
      alone.encode(vectors[static_cast<size_t>(rank)], source.of_rank(rank), message);
      alone.decode_and_add(message, source.of_rank(rank), mean);
    }
  }
  for (float& value : mean) value /= static_cast<float>(ranks);
  return mean;
}

double error_of_mean(const std::string& name, const Data& data) {
  const Codec codec = codec_named(name, bucket, "test");
  constexpr uint32_t trials = 25;
  double sum = 0;
  for (uint32_t trial = 0; trial < trials; ++trial) {
    const Vectors vectors = vectors_of(data, trial);
    std::vector<float> exact(static_cast<size_t>(bucket));
    for (size_t i = 0; i < exact.size(); ++i) {
      for (const std::vector<float>& vector : vectors) exact[i] += vector[i];
      exact[i] /= static_cast<float>(vectors.size());
    }
    sum += squared_distance(mean_of(codec, vectors, trial), exact) / squared_norm(exact) / trials;
  }
  return sum;
}

TEST(MeanEstimation, HasTheErrorsOfTheTableOnNormalValues) {
  struct Row {
    Data data;
    double correlated, rotated, drive;
  };
  for (const auto& [data, correlated, rotated, drive] :
       {Row{{false, 4, .05f}, .521, .510, .142}, Row{{false, 4, 1}, 1.32, 1.32, .228},
        Row{{false, 16, .05f}, .0352, .0349, .0356}, Row{{false, 16, 1}, .334, .338, .0675}}) {
    const std::string where = fmt::format("{} ranks, spread {}", data.ranks, data.spread);
    EXPECT_NEAR(error_of_mean("correlated-1", data), correlated, 0.08 * correlated) << where;
    EXPECT_NEAR(error_of_mean("rotated-correlated-1", data), rotated, 0.08 * rotated) << where;
    EXPECT_NEAR(error_of_mean("drive", data), drive, 0.08 * drive) << where;
  }
}

TEST(MeanEstimation, NeedsARotationUnderHeavyTails) {
  for (const int ranks : {4, 16}) {
    const Data data{true, ranks, .05f};
    EXPECT_GT(error_of_mean("correlated-1", data), 3 * error_of_mean("rotated-correlated-1", data)) << ranks;
    const double drive = 0.5708 / ranks;
    EXPECT_NEAR(error_of_mean("drive", data), drive, 0.08 * drive) << ranks;
  }
}

TEST(MeanEstimation, OfOneBitIsDrivesOnFewRanksAndCorrelatedOnMany) {
  for (const bool heavy_tails : {false, true}) {
    const Data few{heavy_tails, 4, 0}, many{heavy_tails, 24, 0};
    EXPECT_LT(2 * error_of_mean("drive", few), error_of_mean("rotated-correlated-1", few));
    EXPECT_GT(error_of_mean("drive", many), error_of_mean("rotated-correlated-1", many));
  }
}

TEST(MeanEstimation, OfCorrelatedCodesBeatsIndependentOnesOfTheSameBits) {
  for (const int bits : {1, 2, 4})
    for (const float spread : {0.0f, 0.1f, 1.0f}) {
      const Data data{false, 8, spread};
      EXPECT_LT(error_of_mean(fmt::format("correlated-{}", bits), data),
                error_of_mean(fmt::format("independent-{}", bits), data))
          << bits << " " << spread;
    }
}

}  // namespace
}  // namespace nibble
