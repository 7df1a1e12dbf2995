// Every recipe's linear layer on devices whose tensor cores multiply codes: how many of its three products they do, and
// that these are the host's, which multiplies the bf16 values of the same codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "quant/coded_operand.hpp"
#include "quant/quantizers.hpp"
#include "quant/weight_codes.hpp"
#include "tests/cuda/emulated_architecture.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/quant/linear_operator.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

using cuda::emulation::library_use;
using testing::Architecture, testing::blackwell, testing::hopper;

/// Products of codes of a layer, forward and backward: on Hopper, on Blackwell.
struct Expected {
  int hopper, blackwell;
};
const std::map<std::string, Expected>& expected_products() {
  static const std::map<std::string, Expected> table = {
      {"fp32", {0, 0}},
      {"bf16", {0, 0}},
      {"fp8", {3, 3}},
      {"fp8-delayed", {3, 3}},
      {"fp8-row", {3, 3}},
      {"mxfp8", {0, 3}},
      {"mxfp6", {0, 3}},      // E2M3 and E3M2 in the codes of E4M3
      {"mxfp4-rtn", {0, 3}},  // as is E2M1
      {"mxint8", {0, 0}},     // seven bits
      {"mxfp4-rht-sr", {0, 2}},
      {"quartet", {0, 3}},
      {"quartet-rtn", {0, 3}},
      {"quartet-pma", {0, 3}},
      {"quartet-floor", {0, 3}},
      {"quartet-exact", {0, 2}},  // forward, blocks have f32 scales
      {"quartet2", {0, 3}},
      {"quartet2-rtn", {0, 3}},
      {"quartet2-eden128", {0, 3}},
      {"quartet2-delayed", {0, 3}},
      {"nvfp4-nvidia", {0, 3}},
      {"nvfp4-nvidia-4over6", {0, 3}},
      {"nvfp4-nvidia-fixed-signs", {0, 3}},
      {"nvfp4-h16", {0, 1}},  // the error is not quantized
      {"nvfp4-4over6-sr", {0, 3}},
      {"tetrajet2", {0, 3}},
      {"nvint4", {0, 0}},  // no E2M1
      {"sfp4", {0, 0}},    // the scale's sign shifts the grid
      {"quest-fp4", {1, 1}},
      {"quest-2of4-a4", {0, 0}},
      {"halo0-int8", {0, 0}},  // exact in i8
      {"halo1-int8", {0, 0}},
      {"halo2-int8", {0, 0}},
      {"halo0-fp8", {3, 3}},
      {"halo1-fp8", {3, 3}},
      {"halo2-fp8", {3, 3}},
      {"halo0-fp6", {3, 3}},
      {"halo1-fp6", {3, 3}},
      {"halo2-fp6", {3, 3}},
      {"quest-w4a4", {0, 0}},
      {"quest-w4a16", {0, 0}},
  };
  return table;
}

/// In two orders, sums of n terms differ by at most 2 n 2^-24 times the sum of the terms' magnitudes, which for normal
/// numbers is some twice the largest sum; a GPU's sums of codes keep fewer bits (coded_gemm.hpp).
void expect_sums(const reference::Matrix& device, const reference::Matrix& host, int64_t depth,
                 const std::string& label) {
  const auto magnitude = [](float v) { return std::abs(v); };
  const double rounding = cuda::emulation::linked() ? static_cast<double>(depth) * 0x1p-22 : 0x1p-8,
               bound = rounding * magnitude(std::ranges::max(host.values, {}, magnitude));
  ASSERT_EQ(device.values.size(), host.values.size());
  for (size_t i = 0; i < host.values.size(); ++i) ASSERT_NEAR(device.values[i], host.values[i], bound) << label << i;
}

void expect_the_hosts(const LinearResults& device, const LinearResults& host, const LinearSpec& spec) {
  expect_sums(device.y, host.y, spec.in, "y ");
  expect_sums(device.dx, host.dx, spec.out, "dx ");
  expect_sums(device.dw, host.dw, spec.tokens, "dw ");
}

int products_of_codes() { return library_use ? library_use().codes : 0; }

struct Shape {
  int64_t tokens, in, out;
};

/// Compares, and returns how many products were of codes.
int compare(const Recipe& recipe, const Shape& shape, bool input_stays = false) {
  const LinearCall call{.step = 5, .micro_batch = 2, .pass = Pass::training};
  LinearOperands operands(shape.tokens, shape.in, shape.out);
  operands.spec.input_stays = input_stays;
  const LinearResults host = run_linear(recipe, operands, call);
  const int before = products_of_codes();
  expect_the_hosts(run_linear(recipe, operands, call, DType::f32, Place::device), host, operands.spec);
  return products_of_codes() - before;
}

class CodedLinear : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (cuda::emulation::linked() && !library_use) GTEST_SKIP() << "built without cublasLt.h";
  }
  /// Of a recipe's three products; a GPU is not asked.
  void expect_products(int seen, const std::string& recipe) const {
    if (!cuda::emulation::linked()) return;
    const Expected expected = expected_products().at(recipe);
    EXPECT_EQ(seen, GetParam() == hopper ? expected.hopper : expected.blackwell) << recipe;
  }

  Architecture architecture{GetParam()};
};

TEST_P(CodedLinear, OfEveryRecipeIsTheHosts) {
  constexpr Shape shape{128, 128, 256};
  std::vector<Recipe> all = recipes();
  for (const char* name : {"quest-w4a4", "quest-w4a16"}) all.push_back(find_recipe(name));
  for (const Recipe& recipe : all) {
    ASSERT_TRUE(expected_products().contains(recipe.name)) << recipe.name;
    SCOPED_TRACE(recipe.name);
    Stream stream(1, Place::device);
    const LinearSpec spec = LinearOperands(shape.tokens, shape.in, shape.out).spec;
    const auto of_codes = std::ranges::count(make_linear(recipe, spec)->product_types(stream), DType::u8);
    expect_products(static_cast<int>(of_codes), recipe.name);
    if (of_codes > 0) expect_products(compare(recipe, shape), recipe.name);
  }
}

TEST_P(CodedLinear, OfAxesThatFillNoTilesIsTheHosts) {
  for (const char* name : {"fp8", "fp8-row", "halo0-fp6", "mxfp8", "mxfp6", "mxfp4-rtn", "nvfp4-nvidia", "quest-fp4"}) {
    SCOPED_TRACE(name);
    const bool rotates = std::string(name) == "quest-fp4";
    for (const bool input_stays : {false, true})
      expect_products(compare(find_recipe(name), {96, rotates ? 128 : 160, 224}, input_stays), name);
  }
}

TEST_P(CodedLinear, UnderRowScalesLeavesTheseToTheLibraryOnHopper) {
  if (!library_use) GTEST_SKIP() << "a GPU is not asked";
  const auto under_vectors = [](const char* name) {
    const int before = library_use().under_vectors;
    compare(find_recipe(name), {128, 128, 256});
    return library_use().under_vectors - before;
  };
  EXPECT_EQ(under_vectors("fp8-row"), GetParam() == hopper ? 3 : 0);
  EXPECT_EQ(under_vectors("quest-fp4"), GetParam() == hopper ? 1 : 0);
  EXPECT_EQ(under_vectors("fp8"), 0);
}

TEST_P(CodedLinear, ThatTensorCoresDoNotTakeIsEmulated) {
  EXPECT_EQ(compare(find_recipe("fp8"), {40, 24, 56}), 0);
  EXPECT_EQ(compare(find_recipe("fp8"), {40, 48, 64}), cuda::emulation::linked() ? 2 : 0) << "dw's depth is 40";
  const ScopedEnvironment scope("NIBBLE_GEMM", "emulated");
  for (const char* name : {"fp8", "mxfp8", "quartet2"})
    EXPECT_EQ(compare(find_recipe(name), {128, 128, 128}), 0) << name;
}

TEST_P(CodedLinear, MultipliesNoBlocksThatRunAlongAnotherAxis) {
  using namespace quantizers;
  const Quantizer blocks = mx(formats::e4m3, MxScale::ceil);
  const auto products = [&](const Recipe& recipe) { return compare(recipe, {128, 128, 128}); };
  const int forward = cuda::emulation::linked() && GetParam() == blackwell ? 1 : 0;
  // Of the forward product, and of an error whose tokens are rotated.
  EXPECT_EQ(products({"carried blocks", {{}, blocks, blocks}, {{.error = blocks}, {.error = blocks}}}), forward);
  const GradientRecipe turned{.left = {128}, .error = square(nvfp4)}, straight{.error = square(nvfp4)};
  EXPECT_EQ(products({"squares", {{}, square(nvfp4), square(nvfp4)}, {straight, straight}}), 3 * forward);
  EXPECT_EQ(products({"turned squares", {{}, square(nvfp4), square(nvfp4)}, {turned, straight}}), 3 * forward);
  const GradientRecipe turned_blocks{.left = {128}, .error = nvfp4};
  EXPECT_EQ(products({"turned blocks", {{}, square(nvfp4), square(nvfp4)}, {turned_blocks, straight}}), 2 * forward);
}

TEST_P(CodedLinear, HidesNothingThatIsNoNumber) {
  constexpr int64_t width = 128, row = 3, col = 5;
  for (const char* name : {"fp8", "fp8-row", "mxfp8", "mxfp4-rtn", "quartet2", "nvfp4-nvidia"})
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      LinearOperands operands(width, width, width);
      operands.x.values[row * width + col] = value;
      const LinearResults seen =
          run_linear(find_recipe(name), operands, {.step = 5, .pass = Pass::training}, DType::f32, Place::device);
      for (size_t i = 0; i < width; ++i) {
        EXPECT_FALSE(std::isfinite(seen.y.values[row * width + i])) << name << " " << value;
        EXPECT_FALSE(std::isfinite(seen.dw.values[i * width + col])) << name << " " << value;
      }
    }
}

TEST_P(CodedLinear, TakesWeightsAsCodes) {
  for (const char* name : {"fp8", "halo1-fp8", "halo0-fp6"}) {
    const Recipe recipe = find_recipe(name);
    const LinearCall call{.step = 5, .pass = Pass::training};
    const LinearOperands operands(64, 128, 160);
    const LinearResults host = run_linear(recipe, operands, call);
    const auto linear = make_linear(recipe, operands.spec);
    Stream stream(1, Place::device);
    const OwnedTensor w = testing::on_device(stream, tensor_of(operands.w, DType::bf16)),
                      codes(DType::u8, 160, 128 / 8 * weight_codes(recipe)->bits(), "test", Place::device);
    LinearCall with_codes = call;
    with_codes.weight_factor = linear->encode_weight(stream, w, linear->weight_magnitude(stream, w), codes);
    const int before = products_of_codes();
    expect_the_hosts(run_linear(*linear, operands, with_codes, DType::bf16, DType::f32, codes, Place::device), host,
                     operands.spec);
    expect_products(products_of_codes() - before, name);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, CodedLinear, ::testing::Values(hopper, blackwell),
                         [](const auto& one) { return "sm_" + std::to_string(one.param); });

TEST(CodedAs, SaysWhatCodesMean) {
  using namespace quantizers;
  EXPECT_EQ(coded_as(per_tensor(formats::e5m2)), (CodedAs{CodeFormat::e5m2, BlockScales::none}));
  EXPECT_EQ(coded_as(four_over_six(nvfp4)), (CodedAs{CodeFormat::e2m1, BlockScales::e4m3}));
  EXPECT_EQ(coded_as(mx(formats::e4m3, MxScale::ceil)), (CodedAs{CodeFormat::e4m3, BlockScales::e8m0}));
  for (const Quantizer& none : {Quantizer{}, sfp4(), nvint4, quest_int4_sparse(), quartet(QuestScale::exact),
                                mx(formats::mxint8, MxScale::floor), per_tensor(formats::int8)})
    EXPECT_FALSE(coded_as(none));
  for (const ElementFormat* element : {&formats::e2m1, &formats::e2m3, &formats::e3m2, &formats::int4}) {
    const std::optional<CodedAs> as = coded_as(per_row(*element));
    ASSERT_TRUE(as) << element->name;
    EXPECT_EQ(as->format, CodeFormat::e4m3);
    ASSERT_EQ(as->meanings.size(), static_cast<size_t>(element->codes()));
    for (int code = 0; code < element->codes(); ++code) {
      const float meant = formats::e4m3.value(as->meanings[static_cast<size_t>(code)]);
      EXPECT_EQ(meant, element->value(code)) << element->name << " " << code;
      EXPECT_EQ(std::signbit(meant), std::signbit(element->value(code)));
    }
  }
}

}  // namespace
}  // namespace nibble
