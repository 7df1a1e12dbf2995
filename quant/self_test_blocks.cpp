// Blocks whose answer is known: zeros, the largest numbers, no numbers, and some worked out by hand.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "quant/learned_step.hpp"
#include "quant/quantizers.hpp"
#include "quant/self_test_checks.hpp"

namespace nibble::self_test_checks {
namespace {

using namespace quantizers;

/// Two strips of lanes; a multiple of every block, and of every group that shares a correction.
constexpr int64_t rows = 32, cols = 256;

OwnedTensor constant_matrix(float value) {
  OwnedTensor x(DType::f32, rows, cols);
  std::fill_n(x.view().as<float>(), rows * cols, value);
  return x;
}

/// Codes of E2M1 for sin(1) ... sin(32), worked out by hand from the definitions.
struct WorkedBlock {
  Quantizer quantizer;
  bool rotated;  ///< by a Hadamard transform of 32 first
  float scale;   ///< of the whole, blocks and tensor
  std::array<uint8_t, 32> codes;
};

constexpr std::array<uint8_t, 32> floor_codes{7,  7,  2, 15, 15, 12, 7,  7,  5,  14, 15, 14, 5,  7,  7,  12,
                                              15, 15, 2, 7,  7,  8,  15, 15, 10, 7,  7,  4,  15, 15, 13, 6};
constexpr std::array<uint8_t, 32> onto_six{7,  7,  2, 14, 15, 11, 6,  7,  4,  13, 15, 13, 5,  7,  6,  11,
                                           15, 14, 2, 7,  7,  8,  15, 15, 10, 6,  7,  3,  14, 15, 12, 5};
constexpr std::array<uint8_t, 32> onto_four{5,  6,  1, 13, 14, 10, 5,  6,  3, 12, 14, 12, 3,  6,  5,  10,
                                            14, 13, 1, 6,  5,  8,  13, 14, 9, 5,  6,  2,  13, 14, 11, 4};
constexpr std::array<uint8_t, 32> rotated_codes{1, 8, 9, 9,  1,  1, 2, 9, 9, 8,  9,  1,  2, 9, 10, 9,
                                                4, 2, 5, 11, 14, 4, 7, 6, 4, 11, 14, 12, 7, 5, 7,  14};

constexpr WorkedBlock worked_blocks[] = {
    {mx(formats::e2m1, MxScale::floor), false, 0x1p-3f, floor_codes},
    {mx(formats::e2m1, MxScale::ceil), false, 0x1p-2f, onto_four},
    {mx(formats::e2m1, MxScale::even), false, 0x1p-2f, onto_four},
    {mxfp4_three_quarters(Rounding::nearest), false, 0x1p-3f / 0.75f, onto_six},
    {mxfp4_three_quarters(Rounding::nearest, mxfp4_alignment), false, 0x1p-3f / 0.75f * mxfp4_alignment, onto_six},
    {quartet(QuestScale::floor), true, 0x1p-2f, rotated_codes},
    {quartet(QuestScale::nearest), true, 0x1p-2f, rotated_codes},
    {nvfp4, false, 448 * 0.00037202018f, onto_six},
    {four_over_six(nvfp4), false, 384 * 0.00065103528f, onto_four},
};

/// QuEST's integers on one row of eight.
struct WorkedRow {
  Quantizer quantizer;
  std::array<float, 8> values;
};
constexpr std::array<float, 8> worked_row = {-3, -2, -1, -0.5f, 0.25f, 0.75f, 1.5f, 2.5f};
constexpr WorkedRow worked_rows[] = {
    {quest(1), {-1.363863f, -1.363863f, -1.363863f, -1.363863f, 1.363863f, 1.363863f, 1.363863f, 1.363863f}},
    {quest(2), {-2.552972f, -2.552972f, -0.850991f, -0.850991f, 0.850991f, 0.850991f, 0.850991f, 2.552972f}},
    {quest(4), {-3.151269f, -2.005353f, -0.859437f, -0.286479f, 0.286479f, 0.859437f, 1.432395f, 2.578311f}},
};

Check compare(const std::vector<float>& seen, std::span<const float> expected) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (!(std::abs(seen[i] - expected[i]) <= 2e-6f * std::abs(expected[i])))
      return {{"", fmt::format("the block worked out by hand, element {}", i), fmt::format("{:.7g}", seen[i]),
               fmt::format("{:.7g}", expected[i])}};
  return {};
}

}  // namespace

std::vector<float> quantized(Stream& stream, const Quantizer& quantizer, const Tensor& x, const Hadamard* hadamard) {
  const OwnedTensor values(DType::f32, x.rows, x.cols), row_scale(DType::f32, 1, x.rows);
  const Quantization how{.quantizer = quantizer, .hadamard = hadamard};
  const Scalar statistic = quantizer.learns() ? step_of(stream, initial_log_step(stream, quantizer, x))
                           : quantizer.needs_tensor_statistic() ? tensor_statistic(stream, {.values = x}, how)
                                                                : Scalar();
  const Operand operand = quantize(stream, {.values = x}, how, statistic, values, row_scale);
  std::vector<float> result(values.view().as<float>(), values.view().as<float>() + x.size());
  for (int64_t e = 0; e < x.size(); ++e) {
    float& q = result[static_cast<size_t>(e)];
    q *= operand.factor;
    if (operand.row_scale) q *= operand.row_scale.as<float>()[e / x.cols];
  }
  return result;
}

Check zero_block(Stream& stream, const Quantizer& quantizer) {
  // The scale of half-odd levels, which have no zero, is epsilon; the first step of zeros is the smallest number.
  const float scale = quantizer.learns() ? std::numeric_limits<float>::min() : quantizer.epsilon;
  const float allowed = quantizer.element->half_odd() ? 1.001f * quantizer.element->max * scale : 0;
  for (const float q : quantized(stream, quantizer, constant_matrix(0)))
    if (!(std::abs(q) <= allowed))
      return {{"", "a block of zeros stays zero", fmt::format("{}", q), fmt::format("at most {}", allowed)}};
  return {};
}

/// What overflows (a square, a value rounded up) may become no finite number, which no step survives; what is finite
/// must be near.
Check huge_block(Stream& stream, const Quantizer& quantizer) {
  const float largest = 0x1.fep127f;  // of bf16
  const std::vector<float> result = quantized(stream, quantizer, constant_matrix(-largest));
  for (const float q : result) {
    const bool kept = std::abs(q + largest) <= largest / 2, refused = !std::isfinite(q);
    if (!kept && !refused)
      return {{"", "the largest numbers of bf16 stay large", fmt::format("{} of {}", q, -largest),
               "half of it to three halves, or no finite number"}};
  }
  return {};
}

Check poisoned_block(Stream& stream, const Quantizer& quantizer) {
  constexpr int64_t row = 17, col = 37;
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const OwnedTensor x = constant_matrix(1);
    x.view().row<float>(row)[col] = poison;
    const std::vector<float> result = quantized(stream, quantizer, x);
    const bool whole = quantizer.needs_tensor_statistic() || quantizer.learns(),
               square = quantizer.extent == Extent::square;
    const int64_t group = quantizer.blocks() ? quantizer.group : cols;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j) {
        const bool hit = whole || ((square ? i / group == row / group : i == row) && j / group == col / group);
        const float q = result[static_cast<size_t>(i * cols + j)];
        const bool shares_correction = quantizer.correction_group > group && i == row;
        if (hit == !std::isfinite(q) || (shares_correction && !hit)) continue;
        return {{"", fmt::format("{} in a block poisons it and no other", poison),
                 fmt::format("{} at [{}, {}]", q, i, j), hit ? "no finite number" : "a finite number"}};
      }
  }
  return {};
}

Check worked_block(Stream& stream, const Quantizer& quantizer, const Quantizer& used) {
  for (const WorkedBlock& block : worked_blocks) {
    if (block.quantizer != quantizer) continue;
    const OwnedTensor x(DType::f32, 1, 32);
    std::array<float, 32> expected{};
    for (size_t i = 0; i < 32; ++i) {
      x.view().as<float>()[i] = static_cast<float>(std::sin(static_cast<double>(i) + 1));
      expected[i] = formats::e2m1.value(block.codes[i]) * block.scale;
    }
    const Hadamard hadamard = Hadamard::of_order(32, "self-test");
    return compare(quantized(stream, used, x, block.rotated ? &hadamard : nullptr), expected);
  }
  for (const WorkedRow& row : worked_rows) {
    if (row.quantizer != quantizer) continue;
    const OwnedTensor x(DType::f32, 1, 8);
    std::ranges::copy(worked_row, x.view().as<float>());
    return compare(quantized(stream, used, x), row.values);
  }
  return {};
}

}  // namespace nibble::self_test_checks
