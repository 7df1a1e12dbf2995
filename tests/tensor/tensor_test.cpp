// Element types, vector functions, views, arenas, streams and random numbers.
#include "tensor/tensor.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/exponential.hpp"
#include "tensor/random.hpp"
#include "tensor/simd.hpp"
#include "tensor/stream.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

/// The bf16 nearest to x by search among all 65536 codes, ties to the even code.
uint16_t nearest_bf16(float x) {
  const uint16_t truncated = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
  const auto value = [](uint32_t code) { return static_cast<double>(std::bit_cast<float>(code << 16)); };
  // 2^128 stands for infinity, as in IEEE rounding.
  const auto magnitude = [&](uint32_t code) { return (code & 0x7fff) == 0x7f80 ? 0x1p128 : std::abs(value(code)); };
  const double low = magnitude(truncated), high = magnitude(truncated + 1), target = std::abs(static_cast<double>(x));
  const double down = target - low, up = high - target;
  if (down != up) return down < up ? truncated : truncated + 1;
  return truncated % 2 == 0 ? truncated : truncated + 1;
}

TEST(Bfloat16, RoundsToNearestEven) {
  for (uint32_t upper = 0; upper < 0x10000; ++upper)
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float x = std::bit_cast<float>((upper << 16) | lower);
      if (std::isnan(x)) {
        EXPECT_TRUE(std::isnan(static_cast<float>(bf16(x))));
      } else if (!std::isinf(x)) {
        ASSERT_EQ(bf16(x).bits, nearest_bf16(x)) << std::hexfloat << x;
      }
    }
  EXPECT_EQ(bf16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
}

TEST(Bfloat16, VectorsRoundLikeScalars) {
  for (uint32_t upper = 0; upper < 0x10000; upper += 7)
    for (const uint32_t lower : {0x0000u, 0x7fffu, 0x8000u, 0x8001u}) {
      const float x = std::bit_cast<float>((upper << 16) | lower);
      bf16 narrow[simd::lanes];
      simd::store(narrow, simd::splat(x));
      if (std::isnan(x)) {
        EXPECT_TRUE(std::isnan(static_cast<float>(narrow[3])));
      } else {
        ASSERT_EQ(narrow[3].bits, bf16(x).bits);
      }
    }
}

TEST(Simd, ExponentialWithinTwoUlp) {
  for (double x = -87.3; x < 88.7; x += 0.000917) {
    const float input = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(input));
    const double ulp = std::nextafter(static_cast<float>(exact), INFINITY) - static_cast<float>(exact);
    ASSERT_NEAR(simd::exp(simd::splat(input))[0], exact, 2 * ulp) << x;
    ASSERT_EQ(simd::exp(simd::splat(input))[0], exponential(input)) << x;
    ASSERT_EQ(simd::sigmoid(simd::splat(input))[0], sigmoid(input)) << x;
  }
  for (const float x : {-INFINITY, -1e30f, -87.34f, -87.33f, 88.72f, 88.73f, INFINITY})
    EXPECT_EQ(simd::exp(simd::splat(x))[0], exponential(x)) << x;
  EXPECT_TRUE(std::isnan(exponential(NAN)));
  EXPECT_EQ(simd::exp(simd::splat(0.0f))[0], 1.0f);
  EXPECT_EQ(simd::exp(simd::splat(-INFINITY))[0], 0.0f);
  EXPECT_EQ(simd::exp(simd::splat(-1e30f))[0], 0.0f);
  EXPECT_EQ(simd::exp(simd::splat(89.0f))[0], INFINITY);
  EXPECT_TRUE(std::isnan(simd::exp(simd::splat(NAN))[0]));
}

TEST(Simd, SigmoidAtKnownValues) {  // reference 6.4: silu(1), silu(-1)
  EXPECT_NEAR(simd::sigmoid(simd::splat(1.0f))[0], 0.7310585786, 1e-7);
  EXPECT_NEAR(-simd::sigmoid(simd::splat(-1.0f))[0], -0.2689414214, 1e-7);
  EXPECT_EQ(simd::sigmoid(simd::splat(-200.0f))[0], 0.0f);
  EXPECT_EQ(simd::sigmoid(simd::splat(200.0f))[0], 1.0f);
}

TEST(Simd, PartialGroupsTouchNothingElse) {
  std::vector<float> from(40), to(40, -1.0f);
  for (int i = 0; i < 40; ++i) from[i] = static_cast<float>(i);
  simd::for_each_group(
      37, [&](int64_t i, int64_t count) { simd::store_n(to.data() + i, simd::load_n(from.data() + i, count), count); });
  for (int i = 0; i < 40; ++i) EXPECT_EQ(to[i], i < 37 ? static_cast<float>(i) : -1.0f);
}

TEST(Philox, KnownAnswers) {  // of the Random123 distribution
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStreamTest, NormalsHaveTheMomentsOfANormal) {
  const RandomStream random(3, Purpose::initialization, 0, 5);
  constexpr int count = 200000;
  double sum = 0, squares = 0, fourth = 0;
  for (int i = 0; i < count; ++i) {
    const auto [x, y] = random.normal_pair(i);
    for (const double value : {x, y}) {
      sum += value;
      squares += value * value;
      fourth += value * value * value * value;
    }
  }
  const double n = 2.0 * count;  // bounds: five standard errors
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n, 3, 5 * std::sqrt(96 / n));
}

TEST(RandomStreamTest, PurposesStepsAndTensorsShareNothing) {
  EXPECT_NE(RandomStream(1, Purpose::initialization).word(0), RandomStream(1, Purpose::shuffle).word(0));
  EXPECT_NE(RandomStream(1, Purpose::shuffle, 1).word(0), RandomStream(1, Purpose::shuffle, 2).word(0));
  EXPECT_NE(RandomStream(1, Purpose::shuffle, 1, 1).word(0), RandomStream(1, Purpose::shuffle, 1, 2).word(0));
  EXPECT_NE(RandomStream(1, Purpose::shuffle).word(0), RandomStream(uint64_t{1} << 32 | 1, Purpose::shuffle).word(0));
}

TEST(ArenaTest, HandsOutDisjointAlignedRows) {
  Tensor x, y;
  const Arena arena("test", [&](Arena& memory) {
    x = memory.take(DType::bf16, 3, 33);
    y = memory.take(DType::f32, 2, 5);
  });
  EXPECT_EQ(x.stride, 64);
  EXPECT_EQ(y.stride, 16);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(x.row<bf16>(1)) % alignment, 0u);
  EXPECT_GE(static_cast<char*>(y.data), static_cast<char*>(x.data) + 3 * 64 * 2);
  EXPECT_LE(reinterpret_cast<char*>(y.row<float>(2)), static_cast<char*>(x.data) + arena.bytes());
}

TEST(BufferTest, TooLargeIsATypedError) {
  try {
    const Buffer buffer(size_t{1} << 60, "a galaxy");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::resource);
    EXPECT_NE(std::string(error.what()).find("a galaxy"), std::string::npos);
  }
}

TEST(StreamTest, ParallelForCoversEveryIndexOnce) {
  for (const int threads : {1, 2, 3}) {
    Stream stream(threads);
    for (const int64_t n : {0, 1, 5, 64, 1000}) {
      std::vector<int> visits(static_cast<size_t>(n));
      parallel_for(stream, n, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(n), 1));
    }
  }
}

TEST(StreamTest, InstructionSetsGiveTheSameBits) {
  constexpr int64_t n = 1003;
  std::vector<float> results[2];
  for (const char* isa : {"avx2", "avx512"}) {
    const ScopedEnvironment scope("NIBBLE_ISA", isa);
    try {
      Stream stream(2);
      std::vector<float> y(n);
      parallel_for(stream, n, simd::lanes, [&](int64_t begin, int64_t end) {
        simd::for_each_group(end - begin, [&](int64_t i, int64_t count) {
          simd::f32x x = simd::splat(static_cast<float>(begin + i) * 0.01f);
          simd::store_n(y.data() + begin + i, simd::exp(x) * x + simd::sigmoid(x), count);
        });
      });
      results[std::string(isa) == "avx512"] = y;
    } catch (const Error& error) {
      EXPECT_STREQ(isa, "avx512") << error.what();  // a machine without it
    }
  }
  if (!results[1].empty()) {
    EXPECT_EQ(results[0], results[1]);
  } else {
    GTEST_SKIP() << "no AVX-512 here";
  }
}

TEST(StreamTest, RefusesAnUnknownInstructionSet) {
  const ScopedEnvironment known("NIBBLE_ISA", "avx2");
  {
    const ScopedEnvironment unknown("NIBBLE_ISA", "sse9");
    EXPECT_THROW(Stream(1), Error);
  }
  EXPECT_EQ(Stream(1).isa(), Isa::avx2);
}

TEST(Convert, KeepsPaddingAndRounds) {
  Stream stream(2);
  Tensor narrow;
  const Arena arena("test", [&](Arena& memory) { narrow = memory.take(DType::bf16, 5, 33); });
  const OwnedTensor wide(DType::f32, 5, 33), back(DType::f32, 5, 33);
  for (int64_t i = 0; i < wide.view().size(); ++i) wide.view().as<float>()[i] = 1.0f + 0.001f * static_cast<float>(i);
  for (int64_t j = 33; j < narrow.stride; ++j) narrow.row<bf16>(2)[j] = bf16(-5.0f);
  convert(stream, wide, narrow);
  convert(stream, narrow, back);
  for (int64_t i = 0; i < wide.view().size(); ++i)
    EXPECT_EQ(back.view().as<float>()[i], static_cast<float>(bf16(wide.view().as<float>()[i])));
  for (int64_t j = 33; j < narrow.stride; ++j) EXPECT_EQ(static_cast<float>(narrow.row<bf16>(2)[j]), -5.0f);
}

TEST(ErrorTest, MessageHasEveryPart) {
  const Error error(
      {.kind = ErrorKind::data, .what = "short file", .where = "a.h5", .seen = "3", .allowed = "4", .next = "do"});
  EXPECT_STREQ(error.what(), "data error: short file\n  where:   a.h5\n  seen:    3\n  allowed: 4\n  next:    do");
  EXPECT_EQ(error.exit_code(), 3);
}

}  // namespace
}  // namespace nibble
