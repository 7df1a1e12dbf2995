// Weights given as codes: which recipes have them, and that layers compute the same bits from them.
#include "quant/weight_codes.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "quant/quantizers.hpp"
#include "tests/quant/linear_operator.hpp"

namespace nibble {
namespace {

TEST(WeightCodes, AreOfRecipesThatMultiplyThemInAllProducts) {
  std::vector<std::string> names;
  for (const Recipe& recipe : recipes())
    if (weight_codes(recipe)) names.push_back(recipe.name);
  EXPECT_EQ(names, (std::vector<std::string>{"fp8", "fp8-delayed", "halo0-int8", "halo0-fp8", "halo0-fp6", "halo1-int8",
                                             "halo1-fp8", "halo1-fp6", "halo2-int8", "halo2-fp8", "halo2-fp6"}))
      << "of fp8-delayed the weight's scale is a current one";
  for (const char* other : {"quest-w8a8", "lsq-w8a8", "ste-w8a8"}) EXPECT_FALSE(weight_codes(find_recipe(other)));
  EXPECT_TRUE(weight_codes(combine(find_recipe("fp8"), find_recipe("bf16"))));
  EXPECT_FALSE(weight_codes(combine(find_recipe("fp8"), find_recipe("mxfp8")))) << "the weight is quantized anew";
}

TEST(WeightCodes, EveryFieldThatNeedsMoreOfTheWeightCounts) {
  const auto refused = [](auto&& change) {
    Recipe recipe = find_recipe("halo1-int8");
    change(recipe);
    return !weight_codes(recipe);
  };
  EXPECT_FALSE(refused([](Recipe&) {}));
  EXPECT_TRUE(refused([](Recipe& r) { r.forward.weight.history = 4; }));
  EXPECT_TRUE(refused([](Recipe& r) { r.forward.weight.rounding = Rounding::stochastic; }));
  EXPECT_TRUE(refused([](Recipe& r) { r.forward.weight.sparsity = Sparsity::two_of_four_pairs; }));
  EXPECT_TRUE(refused([](Recipe& r) {
    r.forward.weight.mask = MaskRule::clip;
    r.forward.weight.mask_width = 100;
  }));
  EXPECT_TRUE(refused([](Recipe& r) { r.backward.input.source = Source::given; }));
  EXPECT_TRUE(refused([](Recipe& r) { r.backward.input.rotation = {.size = 16}; }));
  EXPECT_FALSE(refused([](Recipe& r) { r.backward.weight.source = Source::given; })) << "that is of the input";
}

TEST(WeightCodes, StayWhereAllPhasesHaveTheSame) {
  const auto phases = [](const char* first, const char* second) {
    return weight_codes({{0, find_recipe(first)}, {10, find_recipe(second)}});
  };
  EXPECT_TRUE(phases("halo1-int8", "halo2-int8"));
  EXPECT_FALSE(phases("halo0-int8", "halo1-int8"));
  EXPECT_FALSE(phases("fp8", "bf16"));
  EXPECT_FALSE(phases("bf16", "fp8"));
}

/// The layer's codes of w, made of rows [0, cut) and the others by themselves; and what to multiply them with.
OwnedTensor encode(Stream& stream, const Linear& linear, const Tensor& w, int bits, int64_t cut, float& factor) {
  OwnedTensor codes(DType::u8, w.rows, w.cols / 8 * bits);
  const Tensor rows[] = {w.slice_rows(0, cut), w.slice_rows(cut, w.rows - cut)},
               to[] = {codes.view().slice_rows(0, cut), codes.view().slice_rows(cut, w.rows - cut)};
  const float largest = std::max(linear.weight_magnitude(stream, rows[0]), linear.weight_magnitude(stream, rows[1]));
  for (int i : {0, 1}) factor = linear.encode_weight(stream, rows[i], largest, to[i]);
  return codes;
}

// Products of all types, with rotations of powers of two and others, and codes of less than a byte.
TEST(WeightCodes, GiveTheBitsOfTheWeightItself) {
  Stream stream(2);
  std::vector<Recipe> all = {combine(find_recipe("halo1-int8"), find_recipe("bf16"))};
  for (const Recipe& recipe : recipes())
    if (weight_codes(recipe)) all.push_back(recipe);
  Recipe four_bits = find_recipe("halo1-int8");
  four_bits.forward.weight = quantizers::per_tensor(formats::int4);
  all.push_back(four_bits);
  for (const Recipe& recipe : all)
    for (const int64_t in : {128, 96})
      for (const int64_t cut : {0, 37, 64}) {
        const LinearOperands operands(64, in, 64);
        const auto linear = make_linear(recipe, operands.spec);
        const LinearCall call{.pass = Pass::training};
        const LinearResults expected = run_linear(*linear, operands, call, DType::bf16, DType::bf16);
        const OwnedTensor w = tensor_of(operands.w, DType::bf16);
        LinearCall coded = call;
        const OwnedTensor codes = encode(stream, *linear, w, weight_codes(recipe)->bits(), cut, coded.weight_factor);
        const LinearResults results = run_linear(*linear, operands, coded, DType::bf16, DType::bf16, codes);
        EXPECT_EQ(results.y.values, expected.y.values) << recipe.name << ", " << in << ", " << cut;
        EXPECT_EQ(results.dx.values, expected.dx.values) << recipe.name << ", " << in << ", " << cut;
        EXPECT_EQ(results.dw.values, expected.dw.values) << recipe.name << ", " << in << ", " << cut;
        const int64_t middle = codes.view().size() / 2;
        codes.view().as<uint8_t>()[middle] ^= 1u;
        EXPECT_NE(run_linear(*linear, operands, coded, DType::bf16, DType::bf16, codes).dx.values, expected.dx.values)
            << recipe.name;
      }
}

TEST(WeightCodes, ServeAllPhases) {
  Stream stream(2);
  const std::vector<Precision::Phase> phases = {{0, find_recipe("halo1-int8")}, {2, find_recipe("halo2-int8")}};
  const LinearOperands operands(64, 96, 64);
  const auto linear = make_linear(phases, operands.spec);
  const OwnedTensor w = tensor_of(operands.w, DType::bf16);
  for (const int64_t step : {1, 2}) {
    LinearCall call{.step = step, .pass = Pass::training};
    const OwnedTensor codes = encode(stream, *linear, w, 8, 16, call.weight_factor);
    const LinearResults expected =
                            run_linear(phases[static_cast<size_t>(step - 1)].recipe, operands, call, DType::bf16),
                        results = run_linear(*linear, operands, call, DType::bf16, DType::bf16, codes);
    EXPECT_EQ(results.y.values, expected.y.values) << step;
    EXPECT_EQ(results.dx.values, expected.dx.values) << step;
    EXPECT_EQ(results.dw.values, expected.dw.values) << step;
  }
}

TEST(WeightCodes, AreRefusedByRecipesThatHaveNone) {
  Stream stream(1);
  const OwnedTensor w(DType::bf16, 8, 8);
  EXPECT_THROW(make_linear(find_recipe("bf16"), {.name = "down", .in = 8, .out = 8})->weight_magnitude(stream, w),
               Error);
}

}  // namespace
}  // namespace nibble
