// The reference quantizers' errors on Gaussian data against the table measured by others' arithmetic (reference on
// quantization, sections 4, 7 and 9.1): a second witness for quantizers without a block worked out by hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>
#include <optional>
#include <string>

#include "tensor/random.hpp"
#include "tests/quant/reference_quantizers.hpp"

namespace nibble::reference {
namespace {

// The 2^18 quantiles of N(0, 1), shuffled: their tails are as they should be, where a sample of this size would spread
// the error of 8 bits by a tenth.
Matrix gaussian_quantiles() {
  Matrix matrix{128, 2048, {}};
  const int count = 128 * 2048;
  double x = 0;
  for (int i = count / 2 - 1; i >= 0; --i) {
    for (int newton = 0; newton < 3; ++newton) {
      const double tail = std::erfc(x / std::numbers::sqrt2) / 2;
      const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
      x += (tail - (i + 0.5) / count) / density;
    }
    matrix.values.push_back(static_cast<float>(x));
    matrix.values.push_back(static_cast<float>(-x));
  }
  const RandomStream stream(1, Purpose::initialization);
  for (uint32_t i = count - 1; i > 0; --i) std::swap(matrix.values[i], matrix.values[stream.word(i) % (i + 1)]);
  return matrix;
}

const Matrix& gaussian() {
  static const Matrix x = gaussian_quantiles();
  return x;
}

// One for each element.
const std::vector<float>& uniforms(uint64_t seed) {
  static std::map<uint64_t, std::vector<float>> all;
  std::vector<float>& drawn = all[seed];
  const RandomStream stream(seed, Purpose::initialization);
  for (size_t i = drawn.size(); i < gaussian().values.size(); ++i) drawn.push_back(stream.uniform(i));
  return drawn;
}

struct Row {
  const char* name;
  std::function<ReferenceQuantized(const Matrix&)> quantize;
  double error;                        // sum (x - q)^2 / sum x^2
  std::optional<double> misalignment;  // 1 - <x, q> / <x, x>, where the table has it
  double masked = 0;                   // fraction of zeros in the mask
  double tolerance = 0.01;             // of the error, relative
};

std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.name; }

class ReferenceErrors : public testing::TestWithParam<Row> {};

TEST_P(ReferenceErrors, AreThoseOfTheTable) {
  const Row& row = GetParam();
  const Matrix& x = gaussian();
  const ReferenceQuantized result = row.quantize(x);
  double energy = 0, projection = 0;
  for (size_t i = 0; i < x.values.size(); ++i) {
    energy += double{x.values[i]} * x.values[i];
    projection += double{x.values[i]} * result.values[i];
  }
  const double error = squared_error(x, result.values) / energy;
  const double masked = static_cast<double>(std::count(result.mask.begin(), result.mask.end(), 0)) / x.values.size();
  RecordProperty("error", std::to_string(error));
  EXPECT_NEAR(error / row.error, 1, row.tolerance) << "error " << error;
  // The projection spreads by sqrt(error / elements), and by some times as much where the largest err most.
  if (row.misalignment) {
    EXPECT_NEAR(1 - projection / energy, *row.misalignment, 1e-4 + 6 * std::sqrt(row.error / x.values.size()));
  }
  EXPECT_NEAR(masked, row.masked, 4 * std::sqrt((row.masked + 1e-5) / x.values.size()));
}

Row mx(const char* name, MxQuantizer quantizer, double error, double misalignment) {
  return {name, [quantizer](const Matrix& x) { return quantize_mx(x, quantizer); }, error, misalignment};
}

Row mx_stochastic(const char* name, MxQuantizer quantizer, double error) {
  const auto quantize = [quantizer](const Matrix& x) {
    MxQuantizer drawn = quantizer;
    drawn.uniforms = uniforms(2);
    return quantize_mx(x, drawn);
  };
  return {name, quantize, error, 0};
}

Row nv(const char* name, NvQuantizer quantizer, double error, std::optional<double> misalignment = {}) {
  return {name, [quantizer](const Matrix& x) { return quantize_nv(x, quantizer); }, error, misalignment};
}

Row nv_stochastic(const char* name, NvQuantizer quantizer, double error, double misalignment) {
  const auto quantize = [quantizer](const Matrix& x) {
    NvQuantizer drawn = quantizer;
    drawn.uniforms = uniforms(2);
    drawn.uniforms_of_four = uniforms(3);
    return quantize_nv(x, drawn);
  };
  return {name, quantize, error, misalignment};
}

Row eden(const char* name, int64_t group, double error, double misalignment) {
  const auto quantize = [group](const Matrix& x) { return quantize_ms_eden(x, group, uniforms(2)); };
  return {name, quantize, error, misalignment};
}

Row quest(const char* name, DeviationRule rule, double error, double misalignment, double masked) {
  const auto quantize = [rule](const Matrix& x) { return quantize_quest_mxfp4(x, rule); };
  return {name, quantize, error, misalignment, masked};
}

// Optimal for the Gaussian, so that error and misalignment are one.
Row quest_integer(const char* name, int bits, double error, double masked) {
  const auto quantize = [bits](const Matrix& x) { return quantize_quest_integer(x, bits); };
  return {name, quantize, error, error, masked};
}

Row absmax(const char* name, const Element& element, Extent extent, double error, double misalignment,
           double tolerance = 0.01) {
  const auto quantize = [element, extent](const Matrix& x) { return quantize_absmax(x, element, extent); };
  return {name, quantize, error, misalignment, 0, tolerance};
}

std::string name_of(const testing::TestParamInfo<Row>& row) {
  std::string name = row.param.name;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    Gaussian, ReferenceErrors,
    testing::Values(
        mx("mxfp4_floor", {}, 0.01322, 0.01957),  //
        mx("mxfp4_ceil", {.rule = ExponentRule::ceil}, 0.01332, 0.01003),
        mx("mxfp4_even", {.rule = ExponentRule::even}, 0.01251, 0.01033),
        mx("mxfp4_three_quarters", {.shrink = 0.75f, .compensation = 4.0f / 3}, 0.01387, 0.00901),
        mx("mxfp4_aligned", {.shrink = 0.75f, .compensation = 4.0f / 3 * 1.009276f}, 0.01404, -0.0002),
        mx_stochastic("mxfp4_three_quarters_stochastic", {.shrink = 0.75f, .compensation = 4.0f / 3}, 0.02819),
        mx_stochastic("mxfp4_ceil_stochastic", {.rule = ExponentRule::ceil}, 0.02711),
        mx("mxfp8_floor", {.element = e4m3}, 0.000863, 0.00276),
        mx("mxfp8_ceil", {.element = e4m3, .rule = ExponentRule::ceil}, 0.000705, 0.00072),
        mx("mxfp8_e5m2_floor", {.element = e5m2}, 0.002911, 0.0048),
        quest("quest_floor", DeviationRule::floor, 0.02697, 0.06436, 0.0728),
        quest("quest_nearest", DeviationRule::nearest, 0.01270, 0.01228, 0.00329),
        quest("quest_exact", DeviationRule::exact, 0.01238, 0.01170, 0.00261), nv("nvfp4", {}, 0.009042, 0.00454),
        nv("nvfp4_four_over_six", {.largest_scale = 256, .four_over_six = true}, 0.007559, 0.00338),
        nv("nvfp4_square", {.extent = square_16}, 0.01239, 0.00914),
        nv("nvfp4_square_four_over_six", {.extent = square_16, .largest_scale = 256, .four_over_six = true}, 0.01238,
           0.00899),
        nv("nvfp4_shrunk", {.scale_override = 0.988125f}, 0.008974, 0.00780),
        nv_stochastic("nvfp4_stochastic", {.scale_override = 17.0f / 16}, 0.02354, 0),
        nv_stochastic("nvfp4_stochastic_without_headroom", {}, 0.01887, 0.0034),
        nv_stochastic("nvfp4_stochastic_four_over_six",
                      {.largest_scale = 256, .scale_override = 17.0f / 16, .four_over_six = true}, 0.01748, -0.0073),
        nv("nvint4", {.element = integer(4)}, 0.00744),
        nv("shifted_grid", {.largest_scale = 256, .four_over_six = true, .shifts = {-0.25f}}, 0.00664),
        nv("shifted_grids", {.largest_scale = 256, .four_over_six = true, .shifts = {-0.25f, 0.25f}}, 0.00599),
        eden("ms_eden_128", 128, 0.009715, 0.00061), eden("ms_eden_32", 32, 0.009690, 0.00025),
        eden("ms_eden_16", 16, 0.009315, -0.00003), absmax("fp8_e4m3", e4m3, whole_tensor, 0.000703, 0.00069),
        absmax("fp8_e5m2", e5m2, whole_tensor, 0.002785, 0.00270, 0.02),
        absmax("int8_rows", integer(8), whole_row, 0.0000683, 0), quest_integer("quest_1", 1, 0.36322, 0.1105),
        quest_integer("quest_2", 2, 0.11876, 0.0464), quest_integer("quest_3", 3, 0.03739, 0.0191),
        quest_integer("quest_4", 4, 0.01152, 0.00731), quest_integer("quest_5", 5, 0.003483, 0.00260),
        quest_integer("quest_6", 6, 0.001034, 0.000866), quest_integer("quest_7", 7, 0.000302, 0.000274),
        quest_integer("quest_8", 8, 0.0000867, 0.0000892),
        Row{"quest_e2m1", quantize_quest_e2m1, 0.0126849, 0.0126849, 0.00065},
        Row{"quest_1_clip_1.30", [](const Matrix& x) { return quantize_quest_integer(x, 1, 1.30f); }, 0.36322, 0.36322,
            0.299},
        Row{"quest_1_clip_1.25", [](const Matrix& x) { return quantize_quest_integer(x, 1, 1.25f); }, 0.36322, 0.36322,
            0.318},
        Row{"quest_sparse", quantize_quest_sparse, 0.2151, {}, 0.410}),
    name_of);

// Errors depend on where the deviation lies between two powers of two; one octave in eighths. Where few of the 8192
// blocks take another exponent than the rest, their number spreads the error by a percent.
TEST(ReferencePhases, ErrorsOfPowerOfTwoScalesOverAnOctave) {
  const struct {
    const char* name;
    std::function<ReferenceQuantized(const Matrix&)> quantize;
    std::array<double, 8> errors;
  } rules[] = {
      {"QuEST floor",
       [](const Matrix& x) { return quantize_quest_mxfp4(x, DeviationRule::floor); },
       {0.02694, 0.02154, 0.01727, 0.01614, 0.01802, 0.02212, 0.02706, 0.02952}},
      {"QuEST nearest",
       [](const Matrix& x) { return quantize_quest_mxfp4(x, DeviationRule::nearest); },
       {0.01272, 0.01277, 0.01318, 0.01380, 0.01414, 0.01396, 0.01347, 0.01298}},
      {"three quarters",
       [](const Matrix& x) { return quantize_mx(x, {.shrink = 0.75f, .compensation = 4.0f / 3}); },
       {0.01385, 0.01354, 0.01332, 0.01328, 0.01346, 0.01377, 0.01403, 0.01407}},
      {"floor",
       [](const Matrix& x) { return quantize_mx(x, {}); },
       {0.01324, 0.01289, 0.01279, 0.01305, 0.01348, 0.01383, 0.01390, 0.01363}},
  };
  for (int eighth = 0; eighth < 8; ++eighth) {
    Matrix x = gaussian();
    double energy = 0;
    for (float& value : x.values) {
      value *= static_cast<float>(std::exp2(eighth / 8.0));
      energy += double{value} * value;
    }
    for (const auto& [name, quantize, errors] : rules)
      EXPECT_NEAR(squared_error(x, quantize(x).values) / energy / errors[eighth], 1, 0.02)
          << name << ", " << eighth << " eighths";
  }
}

TEST(ReferenceChoices, FractionOfBlocksThatTakeFour) {
  const auto fraction = [](Extent extent) {
    const ReferenceQuantized result =
        quantize_nv(gaussian(), {.extent = extent, .largest_scale = 256, .four_over_six = true});
    return static_cast<double>(std::count(result.choices.begin(), result.choices.end(), 1)) / result.choices.size();
  };
  EXPECT_NEAR(fraction({1, 16}), 0.452, 0.01);
  EXPECT_NEAR(fraction(square_16), 0.029, 0.01);
}

}  // namespace
}  // namespace nibble::reference
