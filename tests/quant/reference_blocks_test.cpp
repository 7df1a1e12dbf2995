// The reference quantizers against blocks worked out by hand (reference on quantization, sections 9.3 and 9.4).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/quant/reference_quantizers.hpp"
#include "tests/quant/reference_rotation.hpp"

namespace nibble::reference {
namespace {

using Codes = std::vector<int>;

Matrix sines() {
  Matrix x{1, 32, {}};
  for (int i = 0; i < 32; ++i) x.values.push_back(static_cast<float>(std::sin(i + 1.0)));
  return x;
}

// Of the elements [first, first + 16).
double squared_error_of_16(const Matrix& x, const ReferenceQuantized& result, int first) {
  double sum = 0;
  for (int i = first; i < first + 16; ++i) sum += std::pow(double{x.values[i]} - result.values[i], 2);
  return sum;
}

// x3/4 divides these sines by 1/6, NVFP4 by amax/6, where amax is nearly 1.
const Codes three_quarters{7,  7,  2, 14, 15, 11, 6,  7,  4,  13, 15, 13, 5,  7,  6,  11,
                           15, 14, 2, 7,  7,  8,  15, 15, 10, 6,  7,  3,  14, 15, 12, 5};
const Codes amax_on_four{5,  6,  1, 13, 14, 10, 5,  6,  3, 12, 14, 12, 3,  6,  5,  10,
                         14, 13, 1, 6,  5,  8,  13, 14, 9, 5,  6,  2,  13, 14, 11, 4};

TEST(ReferenceBlocks, ExponentsOfMx) {
  const auto exponent = [](float amax, ExponentRule rule) { return mx_exponent(amax, e2m1, rule); };
  EXPECT_EQ(exponent(1, ExponentRule::floor), -2);
  EXPECT_EQ(exponent(1, ExponentRule::ceil), -2);
  EXPECT_EQ(exponent(4, ExponentRule::floor), 0);
  EXPECT_EQ(exponent(4, ExponentRule::ceil), 0);
  EXPECT_EQ(exponent(6, ExponentRule::floor), 0);
  EXPECT_EQ(exponent(6, ExponentRule::ceil), 0);
  EXPECT_EQ(exponent(6.5f, ExponentRule::floor), 0);
  EXPECT_EQ(exponent(6.5f, ExponentRule::ceil), 1);
  EXPECT_EQ(exponent(6.96875f, ExponentRule::even), 0);
  EXPECT_EQ(exponent(7, ExponentRule::floor), 0);
  EXPECT_EQ(exponent(7, ExponentRule::even), 1);
  EXPECT_EQ(exponent(8, ExponentRule::floor), 1);
  EXPECT_EQ(exponent(8, ExponentRule::ceil), 1);
  EXPECT_EQ(mx_exponent(1.9375f, e4m3, ExponentRule::even), -7) << "E4M3 bumps from 1.9375";
  EXPECT_EQ(mx_exponent(1.93f, e4m3, ExponentRule::even), -8);
}

TEST(ReferenceBlocks, Mxfp4Floor) {
  const ReferenceQuantized result = quantize_mx(sines(), {});
  EXPECT_EQ(result.scales, std::vector<float>{0x1p-3f});
  EXPECT_EQ(result.codes, (Codes{7,  7,  2, 15, 15, 12, 7,  7,  5,  14, 15, 14, 5,  7,  7,  12,
                                 15, 15, 2, 7,  7,  8,  15, 15, 10, 7,  7,  4,  15, 15, 13, 6}));
  EXPECT_NEAR(squared_error(sines(), result.values), 0.506723, 1e-6);
}

TEST(ReferenceBlocks, Mxfp4CeilAndEven) {
  for (const ExponentRule rule : {ExponentRule::ceil, ExponentRule::even}) {
    const ReferenceQuantized result = quantize_mx(sines(), {.rule = rule});
    EXPECT_EQ(result.scales, std::vector<float>{0x1p-2f});
    EXPECT_EQ(result.codes, amax_on_four);
    EXPECT_NEAR(squared_error(sines(), result.values), 0.095470, 1e-6);
  }
}

TEST(ReferenceBlocks, Mxfp4ThreeQuarters) {
  const ReferenceQuantized result = quantize_mx(sines(), {.shrink = 0.75f, .compensation = 4.0f / 3});
  EXPECT_EQ(result.scales, std::vector<float>{0x1p-3f});
  EXPECT_EQ(result.codes, three_quarters);
  EXPECT_NEAR(squared_error(sines(), result.values), 0.158837, 1e-6);
}

TEST(ReferenceBlocks, QuestMxfp4OfTheRotatedBlock) {
  const Matrix x = rotate(sines(), hadamard(32));
  const float first[] = {0.075561, -0.040735, -0.116128, -0.064289, 0.162927, 0.090197, 0.257135, -0.138621};
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(x.values[i], first[i], 1e-6);
  EXPECT_NEAR(largest_magnitude(x), 2.0243856, 1e-6);
  EXPECT_NEAR(quantize_quest_mxfp4(x, DeviationRule::exact).scales[0], 0.33675804, 2e-8);
  for (const DeviationRule rule : {DeviationRule::floor, DeviationRule::nearest}) {
    const ReferenceQuantized result = quantize_quest_mxfp4(x, rule);
    EXPECT_EQ(result.scales, std::vector<float>{0x1p-2f});
    EXPECT_EQ(result.codes, (Codes{1, 8, 9, 9,  1,  1, 2, 9, 9, 8,  9,  1,  2, 9, 10, 9,
                                   4, 2, 5, 11, 14, 4, 7, 6, 4, 11, 14, 12, 7, 5, 7,  14}));
    EXPECT_NEAR(squared_error(x, result.values), 0.461684, 1e-6);
    EXPECT_EQ(std::count(result.mask.begin(), result.mask.end(), 0), 2);
  }
}

TEST(ReferenceBlocks, Nvfp4) {
  const ReferenceQuantized result = quantize_nv(sines(), {});
  EXPECT_NEAR(result.tensor_scale, 0.00037202018, 1e-11);
  EXPECT_EQ(result.scales, (std::vector<float>{448, 448}));
  EXPECT_EQ(result.codes, three_quarters);
  EXPECT_NEAR(squared_error_of_16(sines(), result, 0), 0.0625395, 1e-7);
  EXPECT_NEAR(squared_error_of_16(sines(), result, 16), 0.0962846, 1e-7);
}

TEST(ReferenceBlocks, Nvfp4FourOverSix) {
  const ReferenceQuantized six = quantize_nv(sines(), {.largest_scale = 256});
  EXPECT_NEAR(six.tensor_scale, 0.00065103528, 1e-11);
  EXPECT_EQ(six.scales, (std::vector<float>{256, 256}));
  EXPECT_EQ(six.codes, three_quarters);
  const ReferenceQuantized result = quantize_nv(sines(), {.largest_scale = 256, .four_over_six = true});
  EXPECT_EQ(result.choices, (std::vector<uint8_t>{1, 1}));
  EXPECT_EQ(result.scales, (std::vector<float>{384, 384}));
  EXPECT_EQ(result.codes, amax_on_four);
  EXPECT_NEAR(squared_error_of_16(sines(), result, 0), 0.0463753, 1e-7);
  EXPECT_NEAR(squared_error_of_16(sines(), result, 16), 0.0490891, 1e-7);
}

TEST(ReferenceBlocks, FourOverSixWhereFourIsExact) {
  const Matrix x{1, 16, {10, 20, 30, 40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}};
  const ReferenceQuantized six = quantize_nv(x, {.largest_scale = 256});
  EXPECT_NEAR(six.tensor_scale, 0.026041666, 1e-9);
  EXPECT_EQ(six.scales[0], 256);
  EXPECT_EQ(Codes(six.codes.begin(), six.codes.begin() + 4), (Codes{3, 5, 6, 7}));
  EXPECT_NEAR(squared_error(x, six.values), 11.1111, 1e-4);
  const ReferenceQuantized four = quantize_nv(x, {.largest_scale = 256, .four_over_six = true});
  EXPECT_EQ(four.scales[0], 384);
  EXPECT_EQ(Codes(four.codes.begin(), four.codes.begin() + 4), (Codes{2, 4, 5, 6}));
  EXPECT_NEAR(squared_error(x, four.values), 0, 1e-10);
}

TEST(ReferenceBlocks, QuestIntegers) {
  const Matrix x{1, 8, {-3, -2, -1, -0.5, 0.25, 0.75, 1.5, 2.5}};
  const struct {
    int bits;
    std::vector<float> values;
    std::vector<uint8_t> mask;
  } cases[] = {{1,
                {-1.363863f, -1.363863f, -1.363863f, -1.363863f, 1.363863f, 1.363863f, 1.363863f, 1.363863f},
                {0, 1, 1, 1, 1, 1, 1, 1}},
               {2,
                {-2.552972f, -2.552972f, -0.850991f, -0.850991f, 0.850991f, 0.850991f, 0.850991f, 2.552972f},
                {1, 1, 1, 1, 1, 1, 1, 1}},
               {4,
                {-3.151269f, -2.005353f, -0.859437f, -0.286479f, 0.286479f, 0.859437f, 1.432395f, 2.578311f},
                {1, 1, 1, 1, 1, 1, 1, 1}}};
  for (const auto& [bits, values, mask] : cases) {
    const ReferenceQuantized result = quantize_quest_integer(x, bits);
    for (int i = 0; i < 8; ++i) EXPECT_NEAR(result.values[i], values[i], 1e-6) << bits << " bits, " << i;
    EXPECT_EQ(result.mask, mask) << bits << " bits";
  }
}

}  // namespace
}  // namespace nibble::reference
