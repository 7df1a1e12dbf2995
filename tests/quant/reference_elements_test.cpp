// The reference's element formats against the known conversions (reference on quantization, sections 1.1 and 9.3).
#include "tests/quant/reference_elements.hpp"

#include <gtest/gtest.h>

namespace nibble::reference {
namespace {

struct Conversion {
  float from, to;
};

void expect(const Element& element, std::initializer_list<Conversion> conversions) {
  for (const auto& [from, to] : conversions) {
    EXPECT_EQ(element.value(element.nearest(from)), to) << from;
    EXPECT_EQ(element.value(element.nearest(-from)), -to) << -from;
  }
}

TEST(ReferenceElements, E2m1HasItsEightMagnitudes) {
  const float magnitudes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (int code = 0; code < 8; ++code) {
    EXPECT_EQ(e2m1.value(code), magnitudes[code]);
    EXPECT_EQ(e2m1.value(code + 8), -magnitudes[code]);
  }
  EXPECT_EQ(e2m1.magnitudes.size(), 8u);
}

TEST(ReferenceElements, RangesAreThoseOfTheFormats) {
  const struct {
    const Element& element;
    size_t codes;
    double smallest, largest;
    int largest_exponent;
  } formats[] = {{e2m1, 8, 0.5, 6, 2},        {e3m2, 32, 0x1p-4, 28, 4},       {e2m3, 32, 0.125, 7.5, 2},
                 {e4m3, 127, 0x1p-9, 448, 8}, {e5m2, 124, 0x1p-16, 57344, 15}, {mxint8, 128, 0x1p-6, 1.984375, 0}};
  for (const auto& format : formats) {
    EXPECT_EQ(format.element.magnitudes.size(), format.codes);
    EXPECT_EQ(format.element.magnitudes[1], format.smallest);
    EXPECT_EQ(format.element.magnitudes.back(), format.largest);
    EXPECT_EQ(format.element.largest_exponent(), format.largest_exponent);
  }
}

TEST(ReferenceElements, NearestIsOfEveryOwnValueThatValue) {
  for (const Element& element : {e2m1, e3m2, e2m3, e4m3, e5m2, mxint8, integer(8), integer(4)})
    for (int code = 0; code < static_cast<int>(element.magnitudes.size()); ++code) {
      EXPECT_EQ(element.nearest(element.value(code)), code);
      EXPECT_EQ(element.stochastic(element.value(code), 0), code);
      EXPECT_EQ(element.stochastic(element.value(code), 0.9999999f), code);
    }
}

TEST(ReferenceElements, ConversionsOfE2m1) {
  expect(e2m1, {{0.25, 0},
                {0.2500001f, 0.5},
                {0.75, 1},
                {1.25, 1},
                {1.75, 2},
                {2.5, 2},
                {3.5, 4},
                {5, 4},
                {5.0001f, 6},
                {7, 6},
                {1e30f, 6},
                {0.1f, 0}});
  EXPECT_EQ(e2m1.nearest(-0.1f), 8) << "minus zero has its sign";
}

TEST(ReferenceElements, ConversionsOfE4m3) {
  expect(e4m3, {{0x1p-10f, 0},
                {0x1p-9f, 0x1p-9f},
                {0x1.8p-9f, 0x1p-8f},
                {0x1p-6f, 0x1p-6f},
                {0.1f, 0.1015625f},
                {1.0625f, 1},
                {1.1875f, 1.25f},
                {3.3f, 3.25f},
                {17, 16},
                {19, 20},
                {448, 448},
                {464, 448},
                {480, 448}});
}

TEST(ReferenceElements, ConversionsOfE5m2) {
  expect(e5m2, {{0x1p-17f, 0},
                {0x1.8p-17f, 0x1p-16f},
                {0.1f, 0.09375f},
                {1.125f, 1},
                {1.375f, 1.5f},
                {3.3f, 3.5f},
                {57344, 57344},
                {61439, 57344},
                {61440, 57344},
                {1e38f, 57344}});
}

TEST(ReferenceElements, PowersOfTwo) {
  EXPECT_EQ(e8m0.nearest(1), 127);
  EXPECT_EQ(e8m0.nearest(0x1p-3f), 124);
  EXPECT_EQ(e8m0.nearest(0x1p-127f), 0);
  EXPECT_EQ(e8m0.nearest(0x1p127f), 254);
  EXPECT_EQ(e8m0.value(127), 1);
}

TEST(ReferenceElements, IntegersRoundHalfToEvenAndHaveNoLowestCode) {
  const Element int8 = integer(8);
  EXPECT_EQ(int8.nearest(0.5f), 0);
  EXPECT_EQ(int8.nearest(1.5f), 2);
  EXPECT_EQ(int8.nearest(-2.5f), -2);
  EXPECT_EQ(int8.nearest(-200), -127);
  EXPECT_EQ(int8.value(-127), -127);
}

TEST(ReferenceElements, HalfOddLevelsHaveNoZero) {
  EXPECT_EQ(half_odd_code(0, 0.5f, 4), 0);
  EXPECT_EQ(half_odd_value(0, 0.5f), 0.25f);
  EXPECT_EQ(half_odd_code(-0.1f, 0.5f, 4), -1);
  EXPECT_EQ(half_odd_code(100, 0.5f, 4), 7);
  EXPECT_EQ(half_odd_code(-100, 0.5f, 4), -8);
  EXPECT_EQ(half_odd_code(-3, 0.5f, 1), -1);
}

TEST(ReferenceElements, StochasticRoundingTakesTheUpperNeighbourAsOftenAsItIsNear) {
  const int draws = 1 << 12;
  const struct {
    const Element& element;
    float x;
  } cases[] = {{e2m1, 0.125f}, {e2m1, 4.5f}, {e2m1, -2.75f}, {e3m2, 17}, {e4m3, 0x1.8p-10f}, {integer(8), 100.25f}};
  for (const auto& [element, x] : cases) {
    double sum = 0;
    for (int i = 0; i < draws; ++i) sum += element.value(element.stochastic(x, static_cast<float>(i) / draws));
    EXPECT_EQ(sum / draws, x);  // every quarter or eighth of the way is met exactly
  }
  EXPECT_EQ(e2m1.stochastic(7, 0), 7) << "saturates";
}

}  // namespace
}  // namespace nibble::reference
