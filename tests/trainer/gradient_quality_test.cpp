// Gradients of recipes beside the true one: what is unbiased falls as 1 / draws, what is not plateaus.
#include "trainer/gradient_quality.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/quantizers.hpp"
#include "tensor/fill.hpp"
#include "tests/trainer/expect_error.hpp"
#include "trainer/diagnosis_output.hpp"
#include "trainer/diagnosis_page.hpp"

namespace nibble {
namespace {

using namespace quantizers;

class GradientQualityTest : public ::testing::Test {
 protected:
  GradientQualityTest() {
    build(1);
    const RandomStream random(7, Purpose::shuffle);
    for (uint64_t i = 0; i < 128; ++i) {
      batch_.inputs.push_back(static_cast<int32_t>(random.word(i) % 64));
      batch_.targets.push_back(static_cast<int32_t>(random.word(i + 128) % 64));
    }
  }
  /// A model that is not trained: a gradient is a gradient.
  void build(int64_t layers) {
    config_.layers = layers;
    layout_ = ParameterLayout(config_);
    weights_ = ParameterSet(layout_, DType::f32, DType::f32, false, "weights");
    initialize(stream_, config_, layout_, 3, 0.05, weights_);
  }
  GradientDiagnosis run_all(const std::vector<Recipe>& recipes, int64_t draws) {
    return diagnose_gradients(stream_, config_, weights_, batch_, recipes, {.draws = draws});
  }
  GradientQuality run(const Recipe& recipe, int64_t draws) { return run_all({recipe}, draws).recipes.front(); }
  /// By which factor the error falls from one draw to `draws` in the mean.
  static double fall(const Comparison& comparison) {
    return comparison.errors.front().median / comparison.errors.back().median;
  }

  ModelConfig config_{.vocabulary = 64,
                      .width = 128,
                      .layers = 1,
                      .heads = 2,
                      .kv_heads = 2,
                      .head_dim = 64,
                      .ffn = 128,
                      .context = 64};
  ParameterLayout layout_{config_};
  ParameterSet weights_;
  Batch batch_{.sequences = 2, .length = 64, .inputs = {}, .targets = {}, .document_starts = {}, .loss_tokens = 128};
  Stream stream_{2};
};

TEST_F(GradientQualityTest, WhatIsUnbiasedFallsAsOneOverDraws) {
  constexpr int64_t draws = 32;
  for (const char* name : {"quartet2", "tetrajet2"}) {
    const GradientQuality quality = run(find_recipe(name), draws);
    EXPECT_GT(fall(quality.backward), 0.5 * draws) << name;
    EXPECT_LT(fall(quality.backward), 1.7 * draws) << name;
    EXPECT_NEAR(quality.backward.weights.front().projection, 1, 0.004) << name;
  }
}

/// Each of the two operands of a weight gradient is too large by 0.73% in the mean .
TEST_F(GradientQualityTest, FourOverSixWithStochasticRoundingIsBiased) {
  const GradientQuality quality = run(find_recipe("nvfp4-4over6-sr"), 16);
  EXPECT_GT(quality.backward.weights.front().projection, 1.008);
}

/// x H D instead of x D H: the mistake of public code (Quartet's training code).
TEST_F(GradientQualityTest, SignsBehindTheTransformRandomizeNothing) {
  const Hadamard hadamard = Hadamard::of_order(128, "test");
  const OwnedTensor x(DType::f32, 16, 128), turned(DType::f32, 16, 128), plain(DType::f32, 16, 128),
      signed_behind(DType::f32, 16, 128);
  fill_normal(stream_, RandomStream(1, Purpose::initialization), 1, x);
  const std::vector<float> signs = rotation_signs(Signs::random, 128, RandomStream(2, Purpose::rotation_signs));
  const Quantization unsigned_rotation{.quantizer = ms_eden(16), .hadamard = &hadamard};
  const float statistic = tensor_statistic(stream_, {x}, unsigned_rotation);
  quantize(stream_, {x}, unsigned_rotation, statistic, plain);
  quantize(stream_, {x}, {.hadamard = &hadamard}, 0, turned);
  for (int64_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 128; ++j) turned.view().row<float>(i)[j] *= signs[j];
  quantize(stream_, {turned}, {.quantizer = ms_eden(16)}, statistic, signed_behind);
  for (int64_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 128; ++j)
      ASSERT_EQ(signed_behind.view().row<float>(i)[j], signs[j] * plain.view().row<float>(i)[j]);
}

/// By the test before, products under signs on the wrong side are those without signs, bit for bit.
TEST_F(GradientQualityTest, SignsOnTheWrongSidePlateau) {
  for (const char* name : {"quartet2", "quartet-rtn"}) {
    Recipe wrong = find_recipe(name);
    wrong.backward.input.rotation.signs = wrong.backward.weight.rotation.signs = Signs::none;
    const double right_fall = fall(run(find_recipe(name), 16).backward), wrong_fall = fall(run(wrong, 16).backward);
    EXPECT_LT(wrong_fall, 2) << name;
    EXPECT_GT(right_fall, 2.5 * wrong_fall) << name;
  }
}

/// Rounding to nearest shrinks a little in each product, QuEST's scale with the floor rule much; alignment undoes it.
TEST_F(GradientQualityTest, ShrinkageCompoundsThroughDepth) {
  build(3);
  const auto projections = [&](const Recipe& recipe) {
    std::vector<double> upwards;  // from the embedding
    for (const Alignment& alignment : run(recipe, 8).backward.residual) upwards.push_back(alignment.projection);
    return upwards;
  };
  Recipe quest_floor = find_recipe("quartet-rtn");
  for (GradientRecipe* gradient : {&quest_floor.backward.input, &quest_floor.backward.weight})
    gradient->error = gradient->other = quartet(QuestScale::floor);
  const std::vector<double> stochastic = projections(find_recipe("quartet")),
                            nearest = projections(find_recipe("quartet-rtn")),
                            aligned = projections(find_recipe("quartet-pma")), floor = projections(quest_floor);
  for (size_t block = 0; block < 3; ++block) {
    SCOPED_TRACE(block);
    EXPECT_NEAR(stochastic[block], 1, 0.04);
    EXPECT_NEAR(aligned[block], 1, 0.02);
    EXPECT_LT(nearest[block], nearest[block + 1]);
    EXPECT_LT(floor[block], floor[block + 1]);
    EXPECT_LT(1 - nearest[block], 0.5 * (1 - floor[block]));
  }
}

TEST_F(GradientQualityTest, WhatIsNotQuantizedHasNoError) {
  const GradientDiagnosis diagnosis = run_all({find_recipe("bf16")}, 1);
  const GradientQuality& bf16 = diagnosis.recipes.front();
  EXPECT_EQ(bf16.backward.errors.front().median, 0);
  EXPECT_EQ(bf16.own_forward.errors.front().median, 0);
  EXPECT_EQ(bf16.whole_to_bf16.errors.front().median, 0);
  EXPECT_DOUBLE_EQ(bf16.whole_to_fp32.errors.front().median, diagnosis.bf16_error);
  EXPECT_GT(diagnosis.bf16_error, 0);
  EXPECT_LT(diagnosis.bf16_error, 1e-3);
  EXPECT_TRUE(bf16.operands.empty());
}

/// nvfp4-nvidia's weight gradient reads x as it was given, not as the forward product multiplied it.
TEST_F(GradientQualityTest, EachComparisonHasItsOwnTarget) {
  Recipe given{.name = "given"};
  given.forward = {{}, nvfp4, nvfp4};
  given.backward.input.source = given.backward.weight.source = Source::given;
  const GradientQuality quality = run(given, 1);
  EXPECT_EQ(quality.backward.errors.front().median, 0);
  EXPECT_GT(quality.own_forward.errors.front().median, 1e-3);
  EXPECT_GT(quality.whole_to_fp32.errors.front().median, 1e-3);
}

TEST_F(GradientQualityTest, EveryOperandIsMeasuredOnce) {
  const GradientQuality quality = run(find_recipe("quest-w2a2"), 2);
  std::vector<std::string> places;
  for (const OperandStatistic& operand : quality.operands)
    places.push_back(operand.place.layer + " " + operand_title(operand.place));
  EXPECT_EQ(places, (std::vector<std::string>{"layers.0.qkv y: x", "layers.0.qkv y: w", "layers.0.output y: x",
                                              "layers.0.output y: w", "layers.0.gate_up y: x", "layers.0.gate_up y: w",
                                              "layers.0.down y: x", "layers.0.down y: w"}));
  const OperandStatistic& weight = quality.operands[1];
  EXPECT_EQ(weight.error.elements, 3 * 128 * 128);
  EXPECT_EQ(weight.counts.elements, weight.error.elements);
  // Gaussian values of two bits under QuEST's scale.
  EXPECT_NEAR(weight.relative_squared_error(), 0.119, 0.006);
  EXPECT_GT(weight.masked(), 0.01);
  EXPECT_EQ(run(find_recipe("quartet2"), 1).operands.size(), 4u * 6);
}

TEST_F(GradientQualityTest, TextJsonAndPageShowEveryRecipe) {
  const GradientDiagnosis diagnosis = run_all({find_recipe("quartet2"), find_recipe("halo1-int8")}, 5);
  const std::string text = diagnosis_text(diagnosis), page = diagnosis_page(diagnosis, "Title", "batch");
  for (const char* part : {"== quartet2", "== halo1-int8", "layers.0.gate_up", "dw: dy", "behind the last",
                           "block 0, first", "|mean - g|^2"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in:\n" << text;
  const nlohmann::ordered_json json = diagnosis_json(diagnosis);
  EXPECT_EQ(json["recipes"][0]["operands"].size(), 24u);
  EXPECT_EQ(json["recipes"][1]["backward"]["residual_stream"].size(), 2u);
  const nlohmann::ordered_json& errors = json["recipes"][0]["own_forward"]["error_of_mean"];
  ASSERT_EQ(errors.size(), 3u);
  EXPECT_EQ(errors[1]["draws"], 4);
  EXPECT_EQ(errors[2]["draws"], 5);
  EXPECT_NE(page.find("halo1-int8"), std::string::npos);
  EXPECT_NE(page.find("Error of the mean over draws"), std::string::npos);
}

TEST_F(GradientQualityTest, RefusesWhatHasNoGradient) {
  Batch masked = batch_;
  masked.targets.assign(128, -1);
  masked.loss_tokens = 0;
  expect_error(ErrorKind::data, {"no token of the batch counts"}, [&] {
    const std::vector<Recipe> recipes = {find_recipe("bf16")};
    diagnose_gradients(stream_, config_, weights_, masked, recipes, {});
  });
  *weights_[0].row<float>(batch_.inputs[0]) = std::numeric_limits<float>::infinity();
  expect_error(ErrorKind::numerics, {"not finite", "recipe fp32"}, [&] { run(find_recipe("quartet2"), 1); });
}

}  // namespace
}  // namespace nibble
