// Properties that the reference quantizers have whatever the data (reference on quantization, sections 9.3 and 9.6).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "tensor/random.hpp"
#include "tests/quant/reference_quantizers.hpp"
#include "tests/quant/reference_rotation.hpp"

namespace nibble::reference {
namespace {

Matrix gaussian(int64_t rows, int64_t depth, float deviation = 1) {
  Matrix x{rows, depth, {}};
  const RandomStream stream(4, Purpose::initialization);
  for (int64_t i = 0; i < rows * depth; ++i) x.values.push_back(deviation * stream.normal_pair(i)[0]);
  return x;
}

Matrix scaled(Matrix x, float factor) {
  for (float& value : x.values) value *= factor;
  return x;
}

using Quantize = std::function<ReferenceQuantized(const Matrix&)>;

const NvQuantizer four_over_six{.largest_scale = 256, .four_over_six = true};

const std::vector<Quantize> power_of_two_scales{
    [](const Matrix& x) { return quantize_mx(x, {}); },
    [](const Matrix& x) { return quantize_mx(x, {.rule = ExponentRule::ceil}); },
    [](const Matrix& x) { return quantize_mx(x, {.rule = ExponentRule::even}); },
    [](const Matrix& x) { return quantize_mx(x, {.shrink = 0.75f, .compensation = 4.0f / 3}); },
    [](const Matrix& x) { return quantize_mx(x, {.element = mxint8}); },
    [](const Matrix& x) { return quantize_mx(x, {.element = e3m2}); },
    [](const Matrix& x) { return quantize_mx(x, {.element = e4m3}); }};

const std::vector<Quantize> tensor_scales{
    [](const Matrix& x) { return quantize_nv(x, {}); },
    [](const Matrix& x) { return quantize_nv(x, four_over_six); },
    [](const Matrix& x) { return quantize_nv(x, {.extent = square_16}); },
    [](const Matrix& x) { return quantize_nv(x, {.element = integer(4)}); },
    [](const Matrix& x) {
      return quantize_nv(x, {.largest_scale = 256, .four_over_six = true, .shifts = {-0.25f, 0.25f}});
    },
    [](const Matrix& x) { return quantize_ms_eden(x, 16, std::vector<float>(x.values.size(), 0.5f)); },
    [](const Matrix& x) { return quantize_absmax(x, e4m3, whole_tensor); },
    [](const Matrix& x) { return quantize_absmax(x, integer(8), whole_row); },
    [](const Matrix& x) { return quantize_absmax(x, e3m2, whole_tensor, 0.75f); }};

std::vector<Quantize> all_quantizers() {
  std::vector<Quantize> all = power_of_two_scales;
  all.insert(all.end(), tensor_scales.begin(), tensor_scales.end());
  all.push_back([](const Matrix& x) { return quantize_quest_mxfp4(x, DeviationRule::floor); });
  all.push_back([](const Matrix& x) { return quantize_quest_mxfp4(x, DeviationRule::nearest); });
  all.push_back([](const Matrix& x) { return quantize_quest_mxfp4(x, DeviationRule::exact); });
  all.push_back([](const Matrix& x) { return quantize_quest_integer(x, 4); });
  all.push_back(quantize_quest_e2m1);
  all.push_back(quantize_quest_sparse);
  return all;
}

TEST(ReferenceInvariants, APowerOfTwoMovesTheScalesAlone) {
  const Matrix x = gaussian(32, 128);
  const auto expect_same_codes = [&x](const Quantize& quantize) {
    const ReferenceQuantized plain = quantize(x), twice = quantize(scaled(x, 2));
    EXPECT_EQ(plain.codes, twice.codes);
    EXPECT_EQ(scaled({0, 0, plain.values}, 2).values, twice.values);
    return plain.scales == twice.scales;
  };
  for (const Quantize& quantize : power_of_two_scales) EXPECT_FALSE(expect_same_codes(quantize));
  for (const Quantize& quantize : tensor_scales) expect_same_codes(quantize);
  EXPECT_TRUE(expect_same_codes(tensor_scales.front())) << "the tensor's scale absorbs it";
}

TEST(ReferenceInvariants, SquareBlocksCommuteWithTransposition) {
  const Matrix x = gaussian(64, 48);
  const auto commutes = [&x](const NvQuantizer& quantizer) {
    const Matrix quantized{x.rows, x.depth, quantize_nv(x, quantizer).values};
    return quantize_nv(x.transposed(), quantizer).values == quantized.transposed().values;
  };
  EXPECT_TRUE(commutes({.extent = square_16}));
  EXPECT_TRUE(commutes({.extent = square_16, .largest_scale = 256, .four_over_six = true}));
  EXPECT_FALSE(commutes({}));
}

TEST(ReferenceInvariants, WhatIsQuantizedStaysAsItIs) {
  const Matrix x = gaussian(32, 128);
  // Not four-over-six, 3/4 or a floor that clips: they move amax, and with it the scale. E4M3's tensor scale, a float
  // quotient, comes back to within its last bit.
  for (const Quantize& quantize :
       {power_of_two_scales[0], power_of_two_scales[1], power_of_two_scales[4], power_of_two_scales[6]}) {
    const Matrix once{x.rows, x.depth, quantize(x).values};
    EXPECT_EQ(quantize(once).values, once.values);
  }
  const ReferenceQuantized first = quantize_nv(x, {});
  const ReferenceQuantized again = quantize_nv({x.rows, x.depth, first.values}, {});
  EXPECT_EQ(again.codes, first.codes);
  EXPECT_EQ(again.scales, first.scales);
}

TEST(ReferenceInvariants, FourOverSixIsNoWorseThanSixAlone) {
  for (const float deviation : {1.0f, 1e-3f, 30.0f}) {
    const Matrix x = gaussian(64, 128, deviation);
    EXPECT_LT(squared_error(x, quantize_nv(x, four_over_six).values),
              squared_error(x, quantize_nv(x, {.largest_scale = 256}).values));
  }
}

TEST(ReferenceInvariants, ErrorsStayWithinTheGap) {
  const Matrix x = gaussian(32, 128);
  std::vector<float> uniforms;
  const RandomStream stream(5, Purpose::initialization);
  for (size_t i = 0; i < x.values.size(); ++i) uniforms.push_back(stream.uniform(i));
  const auto largest_error = [&x](const ReferenceQuantized& result) {
    float largest = 0;
    for (size_t i = 0; i < x.values.size(); ++i)
      largest = std::max(largest, std::abs(x.values[i] - result.values[i]) / result.scales[i / 32]);
    return largest;
  };
  EXPECT_LE(largest_error(quantize_mx(x, {.rule = ExponentRule::ceil})), 1);
  EXPECT_LE(largest_error(quantize_mx(x, {.rule = ExponentRule::ceil, .uniforms = uniforms})), 2);
  EXPECT_GT(largest_error(quantize_mx(x, {})), 1) << "floor clips";
}

TEST(ReferenceInvariants, TheTrustMaskKnowsOnlyTheGrid) {
  const Matrix x = gaussian(4, 4096);
  const ReferenceQuantized trusted = quantize_quest_integer(x, 3);
  for (size_t i = 0; i < x.values.size(); ++i) {
    const float step = trusted.scales[i / 4096];
    EXPECT_EQ(trusted.mask[i], std::abs(x.values[i]) <= 4 * step) << x.values[i];
  }
  const ReferenceQuantized floored = quantize_quest_mxfp4(x, DeviationRule::floor);
  for (size_t i = 0; i < x.values.size(); ++i)
    EXPECT_EQ(floored.mask[i], std::abs(x.values[i] / floored.scales[i / 32]) < 6);
}

TEST(ReferenceInvariants, OfFourPairsTheTwoLargerStay) {
  const Matrix x{1, 8, {1, 1, 3, 0, -0.1f, 0.2f, -2, 2}};
  const ReferenceQuantized dense = quantize_quest_integer(x, 4), sparse = quantize_quest_sparse(x);
  for (const int i : {0, 1, 4, 5}) EXPECT_EQ(sparse.values[i], 0);
  for (const int i : {2, 3, 6, 7}) EXPECT_EQ(sparse.values[i], dense.values[i]);
  EXPECT_EQ(sparse.mask, (std::vector<uint8_t>{0, 0, 1, 1, 1, 1, 1, 1}));
}

TEST(ReferenceInvariants, NothingBecomesInfiniteOrNan) {
  const float huge = 0x1.fep126f, smallest_bf16 = 0x1p-133f, smallest_float = 0x1p-149f;
  std::vector<Matrix> extremes;
  for (const float everywhere : {0.0f, -0.0f, 1.0f, huge, -huge, smallest_bf16, smallest_float})
    extremes.push_back({16, 128, std::vector<float>(16 * 128, everywhere)});
  for (const float single : {1.0f, huge, smallest_bf16, smallest_float}) {
    Matrix& x = extremes.emplace_back(Matrix{16, 128, std::vector<float>(16 * 128)});
    x.values[77] = single;
  }
  Matrix& both = extremes.emplace_back(gaussian(16, 128));
  both.values[3] = huge, both.values[500] = smallest_bf16;
  for (const Quantize& quantize : all_quantizers())
    for (const Matrix& x : extremes) {
      const ReferenceQuantized result = quantize(x);
      for (size_t i = 0; i < x.values.size(); ++i) ASSERT_TRUE(std::isfinite(result.values[i])) << x.values[i];
      for (const float scale : result.scales) ASSERT_TRUE(std::isfinite(scale));
    }
}

TEST(ReferenceInvariants, RoundingUpAtTheEdgeOfFloatOverflows) {
  const Matrix x{1, 32, std::vector<float>(32, 0x1.fep127f)};  // the largest bf16
  EXPECT_TRUE(std::isinf(quantize_mx(x, {.rule = ExponentRule::ceil}).values[0])) << "4 * 2^126";
  EXPECT_EQ(quantize_mx(x, {}).values[0], 0x1.8p127f) << "floor saturates";
}

TEST(ReferenceInvariants, ZerosHaveScaleZeroAndCodeZero) {
  Matrix x = gaussian(16, 128);
  std::fill(x.values.begin(), x.values.begin() + 128, 0.0f);
  for (const NvQuantizer& quantizer : {NvQuantizer{}, four_over_six}) {
    const ReferenceQuantized result = quantize_nv(x, quantizer);
    for (int i = 0; i < 128; ++i) EXPECT_EQ(result.codes[i], 0);
    for (int block = 0; block < 8; ++block) EXPECT_EQ(result.scales[block], 0);
  }
  EXPECT_EQ(quantize_mx(x, {}).scales[0], 0x1p-127f);
  EXPECT_EQ(quantize_nv({1, 16, std::vector<float>(16)}, {}).tensor_scale, 1);
}

TEST(ReferenceInvariants, HadamardMatricesAreOrthonormal) {
  // Paley's of order 12: quadratic residues modulo 11 are 1, 3, 4, 5, 9.
  std::vector<int> order_12(144, 1);
  for (int i = 1; i < 12; ++i)
    for (int j = 0; j < 12; ++j) {
      const int difference = (j - i + 11) % 11;
      const bool residue = difference == 1 || difference == 3 || difference == 4 || difference == 5 || difference == 9;
      order_12[i * 12 + j] = j == 0 || (i != j && !residue) ? -1 : 1;
    }
  for (const auto& [n, matrix] : {std::pair{32, hadamard(32)}, {128, hadamard(128)}, {48, hadamard(order_12, 48)}})
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        double product = 0;
        for (int k = 0; k < n; ++k) product += matrix[i * n + k] * matrix[j * n + k];
        EXPECT_NEAR(product, i == j, 1e-12) << n << ": " << i << ", " << j;
      }
}

TEST(ReferenceInvariants, RotationsKeepTheNormAndTurnBack) {
  const Matrix x = gaussian(3, 128);
  std::vector<float> signs;
  for (int i = 0; i < 32; ++i) signs.push_back(i % 3 == 0 ? -1.0f : 1.0f);
  const std::vector<double> h32 = hadamard(32);
  const Matrix back = rotate_back(rotate(x, h32, signs), h32, signs);
  for (size_t i = 0; i < x.values.size(); ++i) EXPECT_NEAR(back.values[i], x.values[i], 1e-6);
  Matrix first{1, 32, std::vector<float>(32)}, second = first;
  first.values[0] = second.values[1] = 1;
  const float root = std::sqrt(1.0f / 32);
  for (int i = 0; i < 32; ++i) {
    EXPECT_FLOAT_EQ(rotate(first, h32).values[i], root);
    EXPECT_FLOAT_EQ(rotate(second, h32).values[i], i % 2 == 0 ? root : -root);
  }
  EXPECT_FLOAT_EQ(rotate(first, h32, signs).values[0], -root) << "signs come first";
}

}  // namespace
}  // namespace nibble::reference
