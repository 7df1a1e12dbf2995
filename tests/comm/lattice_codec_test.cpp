#include "comm/lattice_codec.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "tests/comm/code_trials.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using Found = LatticeCodec::Found;

struct Trial {
  LatticeCodec codec;
  CodeSource source{.seed = 3, .step = 1};
  std::vector<std::byte> message;
  std::vector<float> decoded;
  Found found = Found::near;

  Trial(const char* name, std::span<const float> sent, std::span<const float> own, float distance, uint32_t step = 1)
      : codec(codec_named(name, 1024, "test")), decoded(sent.size()) {
    source.step = step;
    message.resize(codec.codec().bytes_of(static_cast<int64_t>(sent.size())));
    codec.encode(sent, distance, source, message);
    found = codec.decode(message, own, source, decoded);
  }
};

/// 100 + normal, and beside it a vector at most `distance` away, exactly so in every fourth value.
struct Pair {
  std::vector<float> sent, own;
  Pair(int64_t count, float distance, uint32_t trial) : sent(normal_values(count, trial, 100)), own(sent) {
    const RandomStream stream(5, Purpose::initialization, trial);
    for (size_t i = 0; i < own.size(); ++i) {
      const float u = 2 * stream.uniform(i) - 1;
      own[i] += i % 4 == 0 ? std::copysign(distance, u) : u * distance;
    }
  }
};

TEST(LatticeCodec, FindsTheSendersPointsWithinTheDistance) {
  // Distances and values are multiples of a power of two, so that f32 holds their sums exactly.
  for (const char* name : {"lattice-2", "lattice-3", "lattice-4", "lattice-8"})
    for (uint32_t trial = 0; trial < 25; ++trial) {
      Pair pair(10'240, 0.125f, trial);
      for (size_t i = 0; i < pair.sent.size(); ++i) {
        const float away = std::round((pair.own[i] - pair.sent[i]) * 0x1p8f) * 0x1p-8f;
        pair.sent[i] = std::round(pair.sent[i] * 0x1p8f) * 0x1p-8f;
        pair.own[i] = pair.sent[i] + std::clamp(away, -0.125f, 0.125f);
      }
      const Trial tried(name, pair.sent, pair.own, 0.125f, trial);
      ASSERT_EQ(tried.found, Found::near) << name;
      const double side = lattice_side(0.125f, tried.codec.codec().bits);
      for (size_t i = 0; i < pair.sent.size(); ++i)
        ASSERT_LE(std::abs(tried.decoded[i] - pair.sent[i]), side / 2 + 4e-5) << name;
    }
}

TEST(LatticeCodec, FindsOutThatRanksAreTooFarApart) {
  for (const char* name : {"lattice-2", "lattice-4", "lattice-8"})
    for (uint32_t trial = 0; trial < 50; ++trial) {
      const Pair pair(1024, 1, trial);
      const Trial tried(name, pair.sent, pair.own, 0.5f, trial);
      EXPECT_EQ(tried.found, Found::too_far) << name;
      EXPECT_EQ(tried.decoded, pair.own);
    }
}

TEST(LatticeCodec, HasTheErrorOfItsSideWhateverTheSizeOfTheValues) {
  for (const char* name : {"lattice-2", "lattice-3", "lattice-4", "lattice-8"}) {
    double error = 0;
    constexpr uint32_t trials = 40;
    for (uint32_t trial = 0; trial < trials; ++trial) {
      const Pair pair(1024, 0.5f, trial);
      const Trial tried(name, pair.sent, pair.own, 0.5001f, trial);
      EXPECT_EQ(tried.found, Found::near);
      error += squared_distance(tried.decoded, pair.sent) / (1024 * trials);
    }
    const double side = lattice_side(0.5001f, codec_named(name, 1024, "test").bits);
    EXPECT_NEAR(error, side * side / 12, 0.03 * side * side / 12) << name;
  }
}

TEST(LatticeCodec, IsUnbiased) {
  const Pair pair(64, 0.5f, 9);
  EXPECT_LT(largest_bias_in_standard_errors(
                pair.sent, 20'000,
                [&](uint32_t trial) { return Trial("lattice-4", pair.sent, pair.own, 0.5001f, trial).decoded; }),
            5);
}

TEST(LatticeCodec, NeedsASmallerDistanceBehindARotation) {
  // One value far apart: all are a little apart behind the rotation.
  const std::vector<float> sent = normal_values(1024, 2);
  std::vector<float> own = sent;
  own[100] += 1;
  EXPECT_EQ(Trial("lattice-4", sent, own, 0.1f).found, Found::too_far);
  const Trial rotated("rotated-lattice-4", sent, own, 0.1f);
  EXPECT_EQ(rotated.found, Found::near);
  EXPECT_LT(squared_distance(rotated.decoded, sent), 1024 * 0.1 * 0.1 / (3 * 15 * 15) * 1.2);
}

TEST(LatticeCodec, RefusesWhatHasNoPointsAndWhatIsDamaged) {
  const std::vector<float> values = normal_values(100, 2);
  for (const float distance : {0.0f, -1.0f, 1e-9f, std::numeric_limits<float>::infinity()})
    expect_error(ErrorKind::numerics, {"no lattice points"}, [&] { Trial("lattice-4", values, values, distance); });
  std::vector<float> wrong = values;
  wrong[5] = std::numeric_limits<float>::quiet_NaN();
  expect_error(ErrorKind::numerics, {"no lattice points"}, [&] { Trial("lattice-4", wrong, values, 1); });
  expect_error(ErrorKind::configuration, {"no lattice"}, [&] { Trial("qsgd-4", values, values, 1); });

  const std::vector<float> odd = normal_values(33, 2);
  Trial good("lattice-4", odd, odd, 1);
  const auto decode = [&](std::span<const std::byte> message) {
    return good.codec.decode(message, odd, good.source, good.decoded);
  };
  expect_error(ErrorKind::communication, {"damaged"}, [&] { (void)decode(std::span(good.message).first(10)); });
  std::vector<std::byte> bytes = good.message;
  bytes.back() |= std::byte{0x10};
  expect_error(ErrorKind::communication, {"bits behind"}, [&] { (void)decode(bytes); });
  for (size_t bit = 32; bit < 8 * good.message.size() - 4; ++bit) {  // the checksum and all colours
    bytes = good.message;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_EQ(decode(bytes), Found::too_far) << bit;
  }
}

}  // namespace
}  // namespace nibble
