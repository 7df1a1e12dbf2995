// quantize() at the edges: nothing that is no number may become one, and what is finite stays so as far as it can.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/quant/quantize_comparison.hpp"

namespace nibble {
namespace {

using reference::Matrix;

constexpr float infinity = std::numeric_limits<float>::infinity(), not_a_number = std::nanf(""),
                largest_bf16 = 0x1.fep127f;

class QuantizeExtremes : public testing::TestWithParam<QuantizerCase> {
 protected:
  const Quantizer& quantizer() const { return GetParam().quantizer; }
  bool half_odd() const { return quantizer().element->half_odd(); }
  bool largest_sets_scale() const { return quantizer().statistic == Statistic::largest; }
};

TEST_P(QuantizeExtremes, AllUnderOneScaleWithWhatIsNoNumberIsNone) {
  constexpr int64_t rows = 32, depth = 256, row = 20, k = 77;
  for (const float bad : {not_a_number, -not_a_number, infinity, -infinity})
    for (const bool delayed : {false, true}) {
      if (delayed && !quantizer().blocks()) continue;  // one scale for all: its statistic says it
      Matrix x = normal_matrix(rows, depth);
      x.values[row * depth + k] = bad;
      QuantizeCall call;
      if (delayed) call.statistic = 10;
      const QuantizedMatrix result = quantize_matrix(x, quantizer(), call);
      const int64_t group = quantizer().blocks() ? std::max(quantizer().group, quantizer().correction_group) : depth;
      for (int64_t i = 0; i < rows * depth; ++i) {
        const bool same_row = quantizer().extent == Extent::tensor || i / depth == row ||
                              (quantizer().extent == Extent::square && i / depth / 16 == row / 16);
        const bool same_block = quantizer().extent == Extent::tensor || i % depth / group == k / group;
        if (same_row && same_block) {
          ASSERT_FALSE(std::isfinite(result.value(i, depth))) << bad << " at " << i;
        }
        const bool alone = quantizer().blocks() && (delayed || !quantizer().needs_tensor_statistic());
        if (alone && !(same_row && same_block)) {
          ASSERT_TRUE(std::isfinite(result.value(i, depth))) << bad << " at " << i;
        }
      }
    }
}

TEST_P(QuantizeExtremes, ZerosStayZeros) {
  const Matrix zeros{24, 256, std::vector<float>(24 * 256)};
  Matrix some = normal_matrix(32, 256);
  std::fill_n(some.values.begin(), 16 * 256, 0.0f);
  for (const Matrix& x : {zeros, some}) {
    const QuantizedMatrix result = quantize_matrix(x, quantizer());
    for (int64_t i = 0; i < 16 * 256; ++i) {
      // Levels without a zero: what 1e-8 makes of them.
      ASSERT_LE(std::abs(result.value(i, 256)), half_odd() ? 1e-8f : 0.0f) << i;
      if (!result.codes.empty()) {
        ASSERT_EQ(result.codes[i], 0);
      }
      if (!result.mask.empty()) {
        ASSERT_EQ(result.mask[i], 1);
      }
    }
  }
}

TEST_P(QuantizeExtremes, DenormalsStayBelowTheirLargestAndZerosAmongThemZeros) {
  for (const float unit : {0x1p-149f, 0x1p-140f, 0x1p-133f, 0x1p-127f}) {
    Matrix x{32, 256, {}};
    for (int64_t i = 0; i < x.rows * x.depth; ++i) x.values.push_back(static_cast<float>(i % 7 - 3) * unit);
    const QuantizedMatrix result = quantize_matrix(x, quantizer());
    const float smallest_scale = GetParam().stochastic() ? 0x1p-127f : 0;  // half of it is the next level above zero
    const float bound = largest_sets_scale() ? std::max(6 * unit, smallest_scale) : 1e-7f;
    for (int64_t i = 0; i < x.rows * x.depth; ++i) {
      ASSERT_LE(std::abs(result.value(i, x.depth)), bound) << i << ", " << unit;
      if (x.values[i] == 0 && !half_odd() && quantizer().choice != BlockChoice::shifted) {
        ASSERT_EQ(result.value(i, x.depth), 0) << i << ", " << unit;
      }
    }
  }
}

TEST_P(QuantizeExtremes, TheLargestOfBf16KeepsItsSizeOrIsNoNumber) {
  Matrix x = normal_matrix(16, 256);
  x.values[0] = largest_bf16, x.values[1] = -largest_bf16, x.values[2] = 1e38f;
  const QuantizedMatrix result = quantize_matrix(x, quantizer());
  // Squares of more than 2^63 overflow; levels above the largest value may lie beyond the largest float.
  const bool squares = !largest_sets_scale(), powers_of_two = quantizer().scale == ScaleFormat::e8m0;
  const bool overflows = squares || GetParam().stochastic() || (powers_of_two && !GetParam().name.ends_with("floor"));
  for (const int i : {0, 1, 2}) {
    const float ratio = result.value(i, x.depth) / x.values[i];
    EXPECT_TRUE(std::isfinite(ratio) ? !squares && std::abs(ratio - 1) < 0.5f : overflows) << i << ": " << ratio;
  }
}

TEST_P(QuantizeExtremes, OneValueAmongZerosAndEqualValuesAreTheReference) {
  Matrix single{32, 256, std::vector<float>(32 * 256)}, equal{32, 256, std::vector<float>(32 * 256, 3.0f)};
  for (int64_t row = 0; row < 32; ++row) single.values[row * 256 + 11 * row % 256] = row % 2 == 0 ? 1.7f : -300.0f;
  EXPECT_EQ(compare_with_reference(GetParam(), single), Ties());
  EXPECT_EQ(compare_with_reference(GetParam(), equal), Ties());
}

INSTANTIATE_TEST_SUITE_P(Quantizers, QuantizeExtremes, testing::ValuesIn(quantizer_cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace nibble
