// The reference quantizers against other people's: element casts of ml_dtypes, whole blocks of torchao and fouroversix.
// Origins, versions and modes: data/README.md. Every difference is named and counted here, none is tolerated.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/quant/quantize_comparison.hpp"
#include "tests/quant/reference_quantizers.hpp"
#include "trainer/safetensors.hpp"

namespace nibble::reference {
namespace {

std::string fixture(const std::string& name) { return std::string(NIBBLE_TEST_DATA) + "/quant/data/" + name; }

float bf16_value(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// ml_dtypes' code of every non-negative bf16, infinity included, by its bits.
std::vector<int> casts(const std::string& type) {
  std::ifstream file(fixture("ml_dtypes_casts.json"));
  const nlohmann::json runs = nlohmann::json::parse(file).at(type);
  const std::vector<size_t> first = runs.at("first_bits");
  const std::vector<int> code = runs.at("codes");
  std::vector<int> all(0x7F81);
  for (size_t run = 0; run < first.size(); ++run) std::fill(all.begin() + first[run], all.end(), code[run]);
  return all;
}

TEST(ThirdParty, ElementCastsAreThoseOfMlDtypes) {
  const struct {
    const char* type;
    const Element& element;
    bool saturates;
  } types[] = {{"float4_e2m1fn", e2m1, true},
               {"float6_e3m2fn", e3m2, true},
               {"float6_e2m3fn", e2m3, true},
               {"float8_e4m3fn", e4m3, false},  // above 464: NaN
               {"float8_e5m2", e5m2, false}};   // from 61440: infinity
  for (const auto& [type, element, saturates] : types) {
    const std::vector<int> expected = casts(type);
    const int largest = static_cast<int>(element.magnitudes.size()) - 1;
    for (uint32_t bits = 0; bits < expected.size(); ++bits) {
      const int code = expected[bits] > largest ? largest : expected[bits];
      ASSERT_EQ(element.nearest(bf16_value(bits)), code) << type << " of " << bf16_value(bits);
      ASSERT_EQ(element.nearest(-bf16_value(bits)), code + element.sign_bit) << type << " of " << -bf16_value(bits);
    }
    EXPECT_EQ(expected.back() == largest, saturates) << type;
  }
}

TEST(ThirdParty, PowersOfTwoAreThoseOfMlDtypes) {
  const std::vector<int> expected = casts("float8_e8m0fnu");
  EXPECT_EQ(expected[0], 255) << "no zero";
  int ties = 0;
  for (uint32_t bits = 0x80; bits < 0x7F80; ++bits) {  // the normal ones
    const float x = bf16_value(bits);
    const bool tie = (bits & 0x7F) == 0x40;  // 1.5 times a power of two goes up there, here to the even code
    if (expected[bits] == 255) EXPECT_GE(x, 0x1.8p127f);
    else if (tie) ties += e8m0.nearest(x) != expected[bits];
    else ASSERT_EQ(e8m0.nearest(x), expected[bits]) << x;
  }
  EXPECT_EQ(ties, 126);
}

// The four inputs, 16 x 64 each, quantized one by one: Gaussian rows with outliers; rows from 1 down to 2^-22 with
// zeros and minus zeros; multiples of the element's own levels, full of ties; zeros, denormals, the largest bf16 and
// single elements.
enum Input { gaussian, wide, ties, extreme };
constexpr int64_t rows = 16, depth = 64;

class Blocks {
 public:
  Blocks() : file_(fixture("blocks.safetensors")) {}

  Matrix input(Input which) const {
    Matrix x{rows, depth, {}};
    const std::span<const std::byte> bytes = file_.bytes("input");
    for (int64_t i = which * rows * depth; i < (which + 1) * rows * depth; ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, &bytes[2 * i], 2);
      x.values.push_back(bf16_value(bits));
    }
    return x;
  }

  // One for each element: a byte each, or two in a byte with the even one low.
  std::vector<int> codes(const std::string& name, Input which) const {
    const std::vector<int> bytes = part(name + ".codes", which);
    if (bytes.size() == rows * depth) return bytes;
    std::vector<int> all;
    for (const int byte : bytes) all.insert(all.end(), {byte & 15, byte >> 4});
    return all;
  }

  // The bytes of the scales.
  std::vector<int> scales(const std::string& name, Input which) const { return part(name + ".scales", which); }

 private:
  std::vector<int> part(const std::string& name, Input which) const {
    const std::span<const std::byte> bytes = file_.bytes(name);
    const size_t size = bytes.size() / 4;
    std::vector<int> all;
    for (const std::byte byte : bytes.subspan(which * size, size)) all.push_back(std::to_integer<int>(byte));
    return all;
  }

  SafetensorsFile file_;
};

// y lies between two levels, so near their middle that the order of float operations decides.
bool is_tie(double y, double level, double other) {
  return std::abs(y - (level + other) / 2) <= 1e-6 * std::abs(y) && level != other;
}

// gtest's names have no dots.
std::string test_name(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

// --- torchao's MX: scales and codes are identical but in blocks whose scale is 2^-127, which it does not divide by.

struct MxCase {
  const char* name;
  const Element& element;
  ExponentRule rule;
  float divisor_at_2_127;
};

std::ostream& operator<<(std::ostream& out, const MxCase& mx) { return out << mx.name; }

class ThirdPartyMx : public testing::TestWithParam<MxCase> {};

TEST_P(ThirdPartyMx, BlocksAreThoseOfTorchao) {
  const auto& [name, element, rule, divisor_at_2_127] = GetParam();
  const Blocks blocks;
  for (const Input which : {gaussian, wide, ties, extreme}) {
    const Matrix x = blocks.input(which);
    const ReferenceQuantized result = quantize_mx(x, {.element = element, .rule = rule});
    const std::vector<int> codes = blocks.codes(name, which), scales = blocks.scales(name, which);
    for (size_t i = 0; i < codes.size(); ++i) {
      ASSERT_EQ(e8m0.nearest(result.scales[i / 32]), scales[i / 32]) << which << ", block " << i / 32;
      const int expected = scales[i / 32] != 0 ? result.codes[i] : element.nearest(x.values[i] / divisor_at_2_127);
      ASSERT_EQ(expected, codes[i]) << which << ", " << i << ": " << x.values[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Torchao, ThirdPartyMx,
                         testing::Values(MxCase{"torchao.mxfp4.floor", e2m1, ExponentRule::floor, 0x1p-126f},
                                         MxCase{"torchao.mxfp4.even", e2m1, ExponentRule::even, 0x1p-126f},
                                         MxCase{"torchao.mxfp4.rceil", e2m1, ExponentRule::ceil, 1},
                                         MxCase{"torchao.mxfp8_e4m3.floor", e4m3, ExponentRule::floor, 0x1p-126f},
                                         MxCase{"torchao.mxfp8_e4m3.rceil", e4m3, ExponentRule::ceil, 1},
                                         MxCase{"torchao.mxfp8_e5m2.floor", e5m2, ExponentRule::floor, 0x1p-126f},
                                         MxCase{"torchao.mxfp6_e3m2.floor", e3m2, ExponentRule::floor, 0x1p-126f},
                                         MxCase{"torchao.mxfp6_e2m3.even", e2m3, ExponentRule::even, 0x1p-126f}),
                         [](const auto& mx) { return test_name(mx.param.name); });

// --- NVFP4: what differs, by reason. Both multiply by reciprocals where the formula divides.

struct Differences {
  int scale_ties = 0;      // a block's scale before E4M3 rounds it lies in the middle of two codes
  int smallest_scale = 0;  // torchao has no scale below 2^-6, for zeros neither
  int other_choices = 0;   // fouroversix takes six where four errs less: the square overflows, or it did not saturate
  int code_ties = 0;       // x / (scale * tensor scale) lies in the middle of two levels
  int minus_zeros = 0;     // fouroversix has none for a quotient that is zero, or where the scale is
  int unsaturated = 0;     // fouroversix rounds from 7 up to 8, whose code is that of minus zero

  bool operator==(const Differences&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Differences& d) {
  return out << "{" << d.scale_ties << ", " << d.smallest_scale << ", " << d.other_choices << ", " << d.code_ties
             << ", " << d.minus_zeros << ", " << d.unsaturated << "}";
}

struct NvCase {
  const char* name;
  NvQuantizer quantizer;
  Differences expected;  // of all four inputs
};

std::ostream& operator<<(std::ostream& out, const NvCase& nv) { return out << nv.name; }

void count_scale(const Matrix& x, const Block& block, const NvQuantizer& quantizer, float seen, float expected,
                 Differences& differences) {
  const double amax = largest_magnitude(x, block), ratio = amax / largest_magnitude(x) * quantizer.largest_scale;
  const float six = e4m3.value(e4m3.nearest(static_cast<float>(ratio)));
  const bool square_overflows = amax > 0x1p60, six_clips = 6 * ratio >= 7 * six;
  if (is_tie(ratio, seen, expected)) ++differences.scale_ties;
  else if (seen == 0x1p-6f && expected < seen) ++differences.smallest_scale;
  else if (quantizer.four_over_six && seen == six && (square_overflows || six_clips)) ++differences.other_choices;
  else ADD_FAILURE() << "scale " << seen << " and " << expected << ", before rounding " << ratio;
}

// `seen` and the code of x / (scale * tensor_scale) differ.
void count_code(float x, float scale, float tensor_scale, const Element& element, int seen, int expected,
                Differences& differences) {
  const double y = double{x} / (double{scale} * tensor_scale);
  if (is_tie(y, element.value(seen), element.value(expected))) ++differences.code_ties;
  else if (expected == 8 && seen == 0 && (scale == 0 || std::abs(y) < 0x1p-126)) ++differences.minus_zeros;
  else if (seen == 8 && std::abs(y) >= 7) ++differences.unsaturated;
  else ADD_FAILURE() << "code " << seen << " and " << expected << " of " << y;
}

class ThirdPartyNv : public testing::TestWithParam<NvCase> {};

TEST_P(ThirdPartyNv, BlocksDifferOnlyForKnownReasons) {
  const auto& [name, quantizer, expected] = GetParam();
  const Blocks stored;
  Differences differences;
  for (const Input which : {gaussian, wide, ties, extreme}) {
    const Matrix x = stored.input(which);
    const ReferenceQuantized result = quantize_nv(x, quantizer);
    const std::vector<int> codes = stored.codes(name, which), scales = stored.scales(name, which);
    const std::vector<Block> all = blocks(x, quantizer.extent);
    for (size_t b = 0; b < all.size(); ++b) {
      const float scale = e4m3.value(scales[b]);
      if (scale != result.scales[b]) count_scale(x, all[b], quantizer, scale, result.scales[b], differences);
      for (const size_t i : all[b]) {
        const bool integer_code = quantizer.element.sign_bit == 0;
        const int seen = integer_code && codes[i] >= 8 ? codes[i] - 16 : codes[i];
        const float divisor = (scale == 0 ? 1 : scale) * result.tensor_scale;
        const int code = quantizer.element.nearest(x.values[i] / divisor);
        if (seen != code)
          count_code(x.values[i], scale, result.tensor_scale, quantizer.element, seen, code, differences);
      }
    }
  }
  EXPECT_EQ(differences, expected) << differences;
}

INSTANTIATE_TEST_SUITE_P(
    FourBits, ThirdPartyNv,
    testing::Values(NvCase{"torchao.nvfp4", {}, {.smallest_scale = 79, .code_ties = 29}},
                    NvCase{"fouroversix.nvfp4", {}, {.scale_ties = 1, .code_ties = 1, .minus_zeros = 362}},
                    NvCase{"fouroversix.four_over_six",
                           {.largest_scale = 256, .four_over_six = true},
                           {.other_choices = 6, .minus_zeros = 362, .unsaturated = 2}},
                    NvCase{"fouroversix.four_over_six_square",
                           {.extent = square_16, .largest_scale = 256, .four_over_six = true},
                           {.minus_zeros = 168}},
                    NvCase{"fouroversix.nvint4", {.element = integer(4)}, {.code_ties = 4}}),
    [](const auto& nv) { return test_name(nv.param.name); });

// --- quantize() on the same inputs: what the reference makes of them, but where the reciprocal of a scale decides.

TEST(ThirdParty, QuantizeMakesOfTheSameBlocksWhatTheReferenceDoes) {
  const Blocks blocks;
  const struct {
    const char* quantizer;
    Ties ties;
  } cases[] = {{"mx_e2m1_floor", {}},   {"mx_e2m1_even", {}},  {"mx_e2m1_ceil", {}},         {"mx_e4m3_floor", {}},
               {"mx_e4m3_ceil", {}},    {"mx_e5m2_floor", {}}, {"mx_e3m2_floor", {}},        {"mx_e2m3_even", {}},
               {"nvfp4", {.codes = 1}}, {"four_over_six", {}}, {"four_over_six_square", {}}, {"nvint4", {}}};
  for (const auto& [quantizer, expected] : cases) {
    Ties seen;
    for (const Input which : {gaussian, wide, ties}) {
      const Ties of_input =
          compare_with_reference(quantizer_case(quantizer), blocks.input(which), {.from = DType::bf16});
      seen.scales += of_input.scales, seen.codes += of_input.codes;
    }
    EXPECT_EQ(seen, expected) << quantizer;
  }
}

}  // namespace
}  // namespace nibble::reference
