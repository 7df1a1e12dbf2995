#include "comm/bucket_codec.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "tensor/stream.hpp"
#include "tests/comm/code_trials.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

constexpr CodeSource source{.seed = 7, .step = 3, .first_bucket = 11, .rank = 2};

/// Rows whose codes a rank makes alone.
std::vector<std::string> own_codecs() {
  std::vector<std::string> names;
  for (const Codec& codec : codecs())
    if (codec.range != Codec::Range::largest_of_ranks && codec.range != Codec::Range::distance)
      names.emplace_back(codec.name);
  return names;
}
bool is_nearest_without_rotation(const Codec& codec) {
  return codec.rounding == Codec::Rounding::nearest && codec.rotation == Codec::Rotation::none;
}

class EveryCodec : public testing::TestWithParam<std::string> {
 protected:
  static BucketCodec codec(int64_t bucket) { return BucketCodec(codec_named(GetParam(), bucket, "test")); }
  static std::vector<std::byte> message(BucketCodec& codec, std::span<const float> values) {
    std::vector<std::byte> bytes(codec.codec().bytes_of(static_cast<int64_t>(values.size())));
    codec.encode(values, source, bytes);
    return bytes;
  }
};

TEST_P(EveryCodec, IsUnbiasedUnlessItRoundsToNearest) {
  // A Hadamard transform of random signs is no uniform rotation: in small buckets its bias is seen.
  BucketCodec tried = codec(512);
  const std::vector<float> values = normal_values(tried.codec().rotation == Codec::Rotation::none ? 64 : 512, 1);
  const double bias = largest_bias_in_standard_errors(values, 20'000, [&](uint32_t trial) {
    return round_trip(tried, values, {.seed = 5, .step = trial, .first_bucket = 0, .rank = 1});
  });
  if (is_nearest_without_rotation(tried.codec()) || tried.codec().scale == Codec::Scale::least_error)
    EXPECT_GT(bias, 8);
  else EXPECT_LT(bias, 5);
}

TEST_P(EveryCodec, TakesAnyNumberOfValues) {
  BucketCodec tried = codec(64);
  for (const int64_t count : {0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 130, 200}) {
    const std::vector<float> values = normal_values(count, 4);
    const std::vector<float> decoded = round_trip(tried, values, source);
    const int bits = tried.codec().bits;
    EXPECT_LE(squared_distance(values, decoded), (bits >= 8 ? 0.01 : 40) * squared_norm(values) + 1e-30) << count;
    std::vector<float> sum(values.size(), 2.0f);
    tried.decode_and_add(message(tried, values), source, sum);
    for (size_t i = 0; i < sum.size(); ++i) ASSERT_EQ(sum[i], 2.0f + decoded[i]);
  }
}

TEST_P(EveryCodec, CodesOfABucketDependOnNothingElse) {
  BucketCodec tried = codec(128);
  const std::vector<float> values = normal_values(300, 5);
  const std::vector<std::byte> whole = message(tried, values);
  const size_t first = tried.codec().bytes_of(128), rest = whole.size() - first;
  std::vector<std::byte> second(rest);
  tried.encode(std::span(values).subspan(128), source.from_bucket(1), second);
  EXPECT_TRUE(std::equal(second.begin(), second.end(), whole.begin() + static_cast<std::ptrdiff_t>(first)));
  EXPECT_EQ(message(tried, values), whole);
}

TEST_P(EveryCodec, GivesTheSameBitsWithEveryInstructionSet) {
  BucketCodec narrow = codec(256), wide(narrow.codec(), Stream().isa());
  const std::vector<float> values = normal_values(777, 12);
  EXPECT_EQ(message(narrow, values), message(wide, values));
  EXPECT_EQ(round_trip(narrow, values, source), round_trip(wide, values, source));
}

TEST_P(EveryCodec, KeepsZerosAndTinyAndHugeValues) {
  BucketCodec tried = codec(64);
  const std::vector<float> zeros(100, 0.0f);
  EXPECT_EQ(round_trip(tried, zeros, source), zeros);
  for (const float deviation : {0x1p-80f, 0x1p-140f, 0x1p90f}) {
    const std::vector<float> values = normal_values(100, 6, deviation), decoded = round_trip(tried, values, source);
    for (const float value : decoded) EXPECT_TRUE(std::isfinite(value)) << deviation;
  }
}

TEST_P(EveryCodec, RefusesWhatIsNotFinite) {
  BucketCodec tried = codec(64);
  for (const float wrong : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN(), 0x1p100f}) {
    std::vector<float> values = normal_values(100, 7);
    EXPECT_TRUE(encodable(values));
    values[97] = wrong;
    EXPECT_FALSE(encodable(values));
    expect_error(ErrorKind::numerics, {"rank 2, step 3, bucket 12, value 33", fmt::format("{}", wrong)},
                 [&] { message(tried, values); });
  }
}

TEST_P(EveryCodec, RefusesMessagesOfAnyOtherLength) {
  BucketCodec tried = codec(64);
  const std::vector<float> values = normal_values(100, 8);
  std::vector<float> decoded(values.size());
  std::vector<std::byte> bytes = message(tried, values);
  for (size_t length = 0; length < bytes.size(); ++length)
    expect_error(ErrorKind::communication, {"damaged", fmt::format("{} bytes", length)},
                 [&] { tried.decode(std::span(bytes).first(length), source, decoded); });
  bytes.resize(bytes.size() + 1);
  expect_error(ErrorKind::communication, {"damaged"}, [&] { tried.decode(bytes, source, decoded); });
}

TEST_P(EveryCodec, RefusesScalesThatAreNone) {
  BucketCodec tried = codec(64);
  const std::vector<float> values = normal_values(100, 8);
  std::vector<float> decoded(values.size());
  for (const float wrong : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), -1.0f}) {
    std::vector<std::byte> bytes = message(tried, values);
    std::memcpy(&bytes[tried.codec().bytes_of(64)], &wrong, sizeof wrong);
    expect_error(ErrorKind::communication, {"from rank 2, step 3, bucket 12", "scale"},
                 [&] { tried.decode(bytes, source, decoded); });
  }
}

TEST_P(EveryCodec, SurvivesAnyDamage) {
  BucketCodec tried = codec(64);
  const std::vector<float> values = normal_values(77, 9);
  std::vector<float> decoded(values.size());
  const std::vector<std::byte> good = message(tried, values);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::vector<std::byte> bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    try {
      tried.decode(bytes, source, decoded);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::communication);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, EveryCodec, testing::ValuesIn(own_codecs()), [](const auto& test) {
  std::string name = test.param;
  std::erase(name, '-');
  return name;
});

TEST(BucketCodec, RefusesCodesThatStandForNothing) {
  const std::vector<float> values = normal_values(8, 1);
  std::vector<float> decoded(8);
  for (const char* name : {"qsgd-2", "qsgd-4", "qsgd-8", "fp8"}) {
    BucketCodec codec(codec_named(name, 8, "test"));
    std::vector<std::byte> bytes(codec.codec().bytes_of(8));
    codec.encode(values, source, bytes);
    bytes.back() = std::byte{0xff};
    expect_error(ErrorKind::communication, {"code"}, [&] { codec.decode(bytes, source, decoded); });
  }
}

TEST(BucketCodec, RefusesBitsBehindTheLastCode) {
  BucketCodec codec(codec_named("maxmin-4", 64, "test"));
  const std::vector<float> values = normal_values(65, 1);
  std::vector<float> decoded(65);
  std::vector<std::byte> bytes(codec.codec().bytes_of(65));
  codec.encode(values, source, bytes);
  bytes.back() |= std::byte{0x10};
  expect_error(ErrorKind::communication, {"bits behind the last code"}, [&] { codec.decode(bytes, source, decoded); });
}

/// Which of two zeros is the smallest value depends on who looks for it in which order.
TEST(BucketCodec, TheSmallestValueHasNoSignWhereItIsZero) {
  BucketCodec codec(codec_named("maxmin-nearest-4", 64, "test"));
  std::vector<float> values(64, 1.0f), others = values;
  values[3] = others[40] = 0.0f;
  values[40] = others[3] = -0.0f;
  std::vector<std::byte> message(codec.codec().bytes_of(64)), other = message;
  codec.encode(values, source, message);
  codec.encode(others, source, other);
  EXPECT_EQ(message, other);
}

TEST(Codec, HasTheSizesOfItsFormula) {
  EXPECT_EQ(codec_named("qsgd-4", 512, "test").bytes_of(1000), 508u);
  EXPECT_EQ(codec_named("maxmin-4", 512, "test").bytes_of(1000), 516u);
  EXPECT_EQ(codec_named("eden-3", 512, "test").bytes_of(1000), 2 * (4 + 512 * 3 / 8u));
  EXPECT_EQ(codec_named("drive", 512, "test").bytes_of(513), 4 + 64 + 4 + 1u);
  EXPECT_EQ(codec_named("fp8", 512, "test").bytes_of(1000), 1008u);
  EXPECT_EQ(codec_named("correlated-1", 512, "test").bytes_of(1000), 125u);
  for (const Codec& row : codecs()) EXPECT_EQ(row.bytes_of(0), 0u);
}

TEST(Codec, UnknownNamesAndBucketsAreRefused) {
  expect_error(ErrorKind::configuration, {"qsgd-3", "qsgd-2, qsgd-4", "gradients.codec"},
               [] { codec_named("qsgd-3", 1024, "gradients.codec"); });
  for (const int64_t bucket : {-8, 0, 4, 1001, 1 << 17})
    expect_error(ErrorKind::configuration, {"multiples of 8"}, [&] { codec_named("qsgd-4", bucket, "test"); });
  expect_error(ErrorKind::configuration, {"powers of two"}, [] { codec_named("drive", 1000, "test"); });
  expect_error(ErrorKind::configuration, {"other ranks"},
               [] { BucketCodec codec(codec_named("correlated-1", 1024, "test")); });
}

/// Mean over buckets of normal values of (squared error / squared norm).
double error_of(Codec codec, int64_t bucket, uint32_t buckets) {
  codec.bucket = bucket;
  BucketCodec tried(codec);
  double sum = 0;
  for (uint32_t trial = 0; trial < buckets; ++trial) {
    const std::vector<float> values = normal_values(bucket, trial);
    sum += squared_distance(round_trip(tried, values, {.seed = 1, .step = trial}), values) / squared_norm(values);
  }
  return sum / buckets;
}
double error_of(const std::string& name, int64_t bucket, uint32_t buckets = 400) {
  return error_of(codec_named(name, bucket, "test"), bucket, buckets);
}

TEST(BucketCodec, HasTheErrorOfTheTableOnNormalValues) {
  struct Row {
    const char* name;
    int64_t bucket;
    double error;
  };
  for (const auto& [name, bucket, error] : {Row{"qsgd-2", 512, 1.578},
                                            {"qsgd-4", 512, 0.03585},
                                            {"qsgd-8", 512, 1.1e-4},
                                            {"maxmin-2", 512, 0.688},
                                            {"maxmin-4", 512, 0.02722},
                                            {"maxmin-8", 512, 9.5e-5},
                                            {"maxmin-nearest-2", 512, 0.345},
                                            {"maxmin-nearest-4", 512, 0.01363},
                                            {"maxmin-nearest-8", 512, 4.7e-5},
                                            {"qsgd-4", 1024, 0.03996},
                                            {"maxmin-4", 1024, 0.03103},
                                            {"maxmin-nearest-4", 1024, 0.01555}})
    EXPECT_NEAR(error_of(name, bucket), error, 0.05 * error) << name << " " << bucket;
}

TEST(BucketCodec, HasALargerErrorWithTheNormAsItsRange) {
  Codec codec = codec_named("qsgd-4", 512, "test");
  codec.range = Codec::Range::norm;
  EXPECT_NEAR(error_of(codec, 512, 400), 1.581, 0.05 * 1.581);
  codec = codec_named("qsgd-8", 512, "test");
  codec.range = Codec::Range::norm;
  EXPECT_NEAR(error_of(codec, 512, 400), 0.0053, 0.05 * 0.0053);
}

TEST(BucketCodec, HasEdensErrorBehindARotation) {
  constexpr double errors[] = {0.5708, 0.1331, 0.03578, 0.00959, 0.003507, 0.0010411, 0.00030443, 8.769e-5};
  for (int bits = 1; bits <= 8; ++bits) {
    // From 7 bits on a tenth of the error comes from the few values beyond the last level.
    const double error = errors[bits - 1], tolerance = bits < 7 ? 0.05 : 0.12;
    EXPECT_NEAR(error_of(fmt::format("eden-{}", bits), 512), error, tolerance * error) << bits;
  }
  EXPECT_NEAR(error_of("drive-least-error", 512), 0.3634, 0.05 * 0.3634);
}

TEST(BucketCodec, Fp8HasTheErrorOfThreeMantissaBits) {
  EXPECT_NEAR(error_of("fp8", 512), 2 * error_of("fp8-nearest", 512), 0.1 * error_of("fp8", 512));
  EXPECT_LT(error_of("fp8-nearest", 512), 0x1p-8 * 0x1p-2);
}

TEST(BucketCodec, ErrorsOfRanksAverageOutBehindRotationsOfTheirOwn) {
  const std::vector<float> values = normal_values(1024, 3);
  BucketCodec codec(codec_named("eden-2", 1024, "test"));
  double squared_error = 0;
  constexpr int ranks = 16, trials = 50;
  for (uint32_t trial = 0; trial < trials; ++trial) {
    std::vector<float> sum(values.size());
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<float> decoded = round_trip(codec, values, {.seed = 1, .step = trial, .rank = rank});
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += decoded[i] / ranks;
    }
    squared_error += squared_distance(sum, values) / squared_norm(values) / trials;
  }
  EXPECT_NEAR(squared_error, 0.1331 / ranks, 0.05 * 0.1331 / ranks);
}

}  // namespace
}  // namespace nibble
