// What is biased and by how much, by enumeration of all draws.
#include <gtest/gtest.h>

#include <cmath>

#include "tensor/random.hpp"
#include "tests/quant/reference_quantizers.hpp"
#include "tests/quant/reference_rotation.hpp"

namespace nibble::reference {
namespace {

// Mean of coordinate 0 of a one-hot block over every pair of uniforms (i + 1/2) / 17: its rounding probabilities are
// seventeenths, so that no more draws say no more.
double mean_of_seventeenths(bool four_over_six, bool independent) {
  Matrix x{1, 16, std::vector<float>(16)};
  x.values[0] = 1;
  double sum = 0;
  for (int six = 0; six < 17; ++six)
    for (int four = 0; four < 17; ++four) {
      const std::vector<float> of_six(16, (static_cast<float>(six) + 0.5f) / 17);
      const std::vector<float> of_four(16, (static_cast<float>(independent ? four : six) + 0.5f) / 17);
      sum += quantize_nv(x, {.largest_scale = 256,
                             .scale_override = 17.0f / 16,
                             .four_over_six = four_over_six,
                             .uniforms = of_six,
                             .uniforms_of_four = of_four})
                 .values[0];
    }
  return sum / (17 * 17);
}

TEST(ReferenceBias, FourOverSixWithStochasticRoundingIsBiased) {
  EXPECT_NEAR(mean_of_seventeenths(false, false), 1, 1e-6);
  EXPECT_NEAR(mean_of_seventeenths(true, false), 65.0 / 64, 1e-6);
  EXPECT_NEAR(mean_of_seventeenths(true, true), 1.0514706, 1e-6);
}

TEST(ReferenceBias, StochasticRoundingWithoutHeadroomClips) {
  Matrix x{1, 32, std::vector<float>(32)};
  x.values[0] = 1;
  x.values[16] = 17.0f / 448;  // its scale, 17, becomes 16
  const std::vector<float> up(32);
  EXPECT_FLOAT_EQ(quantize_nv(x, {.uniforms = up}).values[16], 16.0f / 448);
  EXPECT_FLOAT_EQ(quantize_nv(x, {.scale_override = 17.0f / 16, .uniforms = up}).values[16], 17.0f / 448);
}

// x = e0 + 0.1 e1: every rotated coordinate is +-0.9 or +-1.1 / sqrt(128), whatever the signs.
TEST(ReferenceBias, MsEdenIsUnbiasedOnlyInHighDimension) {
  Matrix x{1, 128, std::vector<float>(128)};
  x.values[0] = 1, x.values[1] = 0.1f;
  const std::vector<double> h128 = hadamard(128);
  const int draws = 4096;
  double first = 0, second = 0;
  for (const float sign : {1.0f, -1.0f}) {  // of e1; a common sign changes nothing
    std::vector<float> signs(128, 1);
    signs[1] = sign;
    const Matrix rotated = rotate(x, h128, signs);
    std::vector<double> sum(128);
    for (int draw = 0; draw < draws; ++draw) {
      const std::vector<float> uniforms(8, (static_cast<float>(draw) + 0.5f) / draws);
      const ReferenceQuantized quantized = quantize_ms_eden(rotated, 16, uniforms);
      for (int i = 0; i < 128; ++i) sum[i] += quantized.values[i];
    }
    Matrix mean{1, 128, {}};
    for (const double value : sum) mean.values.push_back(static_cast<float>(value / draws));
    const Matrix back = rotate_back(mean, h128, signs);
    first += back.values[0] / 2, second += back.values[1] / 2;
  }
  EXPECT_NEAR(first, 101.0 / 102, 1e-5);
  EXPECT_NEAR(second, 0.1981, 1e-4);
}

TEST(ReferenceBias, SignsBehindTheTransformRandomizeNothing) {
  const std::vector<double> h32 = hadamard(32);
  const RandomStream stream(3, Purpose::initialization);
  Matrix x{1, 32, {}};
  std::vector<float> signs, none(32, 1);
  for (uint64_t i = 0; i < 32; ++i) {
    x.values.push_back(stream.normal_pair(i)[0]);
    signs.push_back(stream.word(1000 + i) % 2 == 0 ? 1.0f : -1.0f);
  }
  const auto error = [&](const Matrix& rotated) {
    return squared_error(rotated, quantize_mx(rotated, {.shrink = 0.75f, .compensation = 4.0f / 3}).values);
  };
  Matrix behind = rotate(x, h32);
  const double plain = error(behind);
  for (int i = 0; i < 32; ++i) behind.values[i] *= signs[i];
  EXPECT_EQ(error(behind), plain);
  EXPECT_NE(error(rotate(x, h32, signs)), plain);
}

}  // namespace
}  // namespace nibble::reference
