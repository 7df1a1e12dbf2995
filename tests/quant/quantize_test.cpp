// quantize() against the reference quantizers, and its properties whatever the quantizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "quant/quantizers.hpp"
#include "tensor/error.hpp"
#include "tests/quant/quantize_comparison.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

using reference::Matrix;

class Quantize : public testing::TestWithParam<QuantizerCase> {
 protected:
  const Quantizer& quantizer() const { return GetParam().quantizer; }
  /// Rows of deviations of their own, no multiple of the sixteen that are quantized together (square blocks need that).
  Matrix normal(int64_t depth) const { return normal_matrix(quantizer().extent == Extent::square ? 48 : 37, depth); }
  QuantizedMatrix quantized(const Matrix& x, const QuantizeCall& call = {}) const {
    return quantize_matrix(x, quantizer(), call);
  }
};

TEST_P(Quantize, IsTheReferenceOnNormalValues) {
  const Matrix x = normal(384);
  EXPECT_EQ(compare_with_reference(GetParam(), x), Ties());
  EXPECT_EQ(compare_with_reference(GetParam(), x, {.axis = Axis::rows, .step = 7, .part = 3}), Ties());
}

TEST_P(Quantize, DiffersFromTheReferenceOnValuesOfBf16AtTiesAlone) {
  // Of 24576; a quotient of two values of bf16 is a tie now and then.
  static const std::map<std::string, Ties> expected = {{"e2m1_by_row", {.codes = 1}},
                                                       {"e3m2_by_row", {.codes = 5}},
                                                       {"e4m3_by_row", {.codes = 5}},
                                                       {"e5m2_by_row", {.codes = 4}},
                                                       {"int4_by_row", {.codes = 7}},
                                                       {"int8_by_row", {.codes = 10}},
                                                       {"nvfp4", {.codes = 7}},
                                                       {"nvfp4_square", {.codes = 3}},
                                                       {"four_over_six_square", {.codes = 3}},
                                                       {"sfp4", {.codes = 1}},
                                                       {"four_over_six_stochastic", {.scales = 6}}};
  const auto ties = expected.find(GetParam().name);
  const Matrix x = normal_matrix(48, 512, 2, true);
  EXPECT_EQ(compare_with_reference(GetParam(), x, {.from = DType::bf16}),
            ties == expected.end() ? Ties() : ties->second);
}

TEST_P(Quantize, HasTheSameBitsAlongBothAxesOnAnyThreadsAndProcessors) {
  const Matrix x = normal(256);
  const Hadamard hadamard = Hadamard::of_order(64, "here");
  const std::vector<float> signs = rotation_signs(Signs::random, 64, RandomStream(1, Purpose::rotation_signs));
  QuantizeCall call{.hadamard = &hadamard, .signs = signs, .step = 2, .part = 1};
  const QuantizedMatrix once = quantized(x, call);
  for (const int threads : {1, 3, 5})
    for (const Axis axis : {Axis::cols, Axis::rows}) {
      call.threads = threads, call.axis = axis;
      EXPECT_EQ(once, quantized(x, call)) << threads << (axis == Axis::rows ? ", rows" : ", cols");
    }
  const ScopedEnvironment avx2("NIBBLE_ISA", "avx2");
  EXPECT_EQ(once, quantized(x, call));
}

TEST_P(Quantize, HasTheSameBitsWhetherTheRotationComesBeforeOrWithIt) {
  const Matrix x = normal(384);
  const Hadamard hadamard = Hadamard::of_order(128, "here");
  const Matrix rotated{x.rows, x.depth, quantize_matrix(x, {}, {.hadamard = &hadamard}).values};
  EXPECT_EQ(quantized(x, {.hadamard = &hadamard}), quantized(rotated));
}

TEST_P(Quantize, WritesTheSameNumbersInEveryTypeAndRestoresThemFromTheirCodes) {
  const Matrix x = normal(256);
  const QuantizedMatrix wide = quantized(x), narrow = quantized(x, {.type = DType::bf16});
  EXPECT_EQ(wide.codes, narrow.codes);
  if (quantizer().exact_in_bf16()) {
    EXPECT_EQ(wide.values, narrow.values);
  }
  EXPECT_EQ(wide.restored, quantizer().packable() ? wide.values : std::vector<float>());
  EXPECT_EQ(narrow.restored, quantizer().packable() ? narrow.values : std::vector<float>());
  if (!quantizer().integers()) return;
  QuantizedMatrix integers = quantized(x, {.type = DType::i8});
  EXPECT_EQ(integers.restored, integers.values);
  for (float& value : integers.values) value += quantizer().element->offset;
  EXPECT_EQ(wide.values, integers.values);
}

TEST_P(Quantize, DrawsOtherNumbersInAnotherStepOrPart) {
  const Matrix x = normal(256);
  const QuantizedMatrix once = quantized(x);
  EXPECT_EQ(once, quantized(x));
  EXPECT_EQ(once == quantized(x, {.step = 1}), !GetParam().stochastic());
  EXPECT_EQ(once == quantized(x, {.part = 1}), !GetParam().stochastic());
}

TEST_P(Quantize, CountsWhatItMasksAndClips) {
  const Matrix x = normal(256);
  const QuantizedMatrix result = quantized(x);
  EXPECT_EQ(result.counts.elements, x.rows * x.depth);
  EXPECT_EQ(result.counts.masked, std::ranges::count(result.mask, 0));
}

TEST(QuantizeCounts, WhatIsClippedUnderTheScaleThatABlockChose) {
  const Matrix x = normal_matrix(48, 256);
  Quantizer without_choice = quantizers::four_over_six(quantizers::nvfp4);
  without_choice.choice = BlockChoice::none;
  const int64_t six = quantize_matrix(x, without_choice, {}).counts.clipped,
                chosen = quantize_matrix(x, quantizers::four_over_six(quantizers::nvfp4), {}).counts.clipped;
  EXPECT_GT(chosen, 0);
  EXPECT_LT(chosen, six) << "on 4, nothing is clipped";
}

TEST(QuantizeParts, OfRotationsThatAreNoMultiplesOfEight) {
  const Matrix x = normal_matrix(5, 22 * 12);
  const Hadamard hadamard = Hadamard::of_order(12, "here");
  const Matrix rotated{x.rows, x.depth, quantize_matrix(x, {}, {.hadamard = &hadamard}).values};
  const Quantizer& quantizer = quantizer_case("int4_by_tensor").quantizer;
  EXPECT_EQ(quantize_matrix(x, quantizer, {.hadamard = &hadamard}), quantize_matrix(rotated, quantizer));
}

TEST(QuantizeLengths, OfBrokenBlocksAreRefused) {
  Stream stream(1);
  const OwnedTensor x = tensor_of(normal_matrix(48, 40), DType::f32), to(DType::f32, 48, 40);
  const Hadamard hadamard = Hadamard::of_order(12, "here");
  const auto quantize_along = [&](Axis axis, const Quantizer& quantizer, const Hadamard* rotation = nullptr) {
    quantize(stream, {.values = x}, {.quantizer = quantizer, .axis = axis, .hadamard = rotation}, 1, to);
  };
  EXPECT_NO_THROW(quantize_along(Axis::rows, quantizers::nvfp4));
  EXPECT_THROW(quantize_along(Axis::cols, quantizers::nvfp4), Error);
  EXPECT_NO_THROW(quantize_along(Axis::rows, {}, &hadamard));
  EXPECT_THROW(quantize_along(Axis::cols, {}, &hadamard), Error);
}

INSTANTIATE_TEST_SUITE_P(Quantizers, Quantize, testing::ValuesIn(quantizer_cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace nibble
