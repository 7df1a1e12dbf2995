#include "trainer/logit_difference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "model/llama.hpp"
#include "quant/recipe.hpp"
#include "tensor/random.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/huggingface_weights.hpp"

namespace nibble {
namespace {

/// Logits as the model that trains computes them, of the tokens on which exports are compared.
OwnedTensor logits_of(Stream& stream, const ModelConfig& config, const ParameterSet& weights) {
  const int64_t tokens = std::min(compared_tokens, config.context);
  Llama model(stream, config, find_recipe("fp32"), {.sequences = 1, .length = tokens, .training = false});
  std::vector<int32_t> ids;
  const RandomStream random(1, Purpose::sampling);
  for (int64_t i = 0; i < tokens; ++i)
    ids.push_back(
        static_cast<int32_t>(random.word(static_cast<uint64_t>(i)) % static_cast<uint64_t>(config.vocabulary)));
  OwnedTensor logits(DType::f32, tokens, config.vocabulary);
  model.logits(weights, {ids, ids, {}}, logits);
  return logits;
}

std::vector<double> softmax(const float* row, int64_t count) {
  std::vector<double> result(row, row + count);
  double sum = 0;
  for (double& value : result) sum += value = std::exp(value);
  for (double& value : result) value /= sum;
  return result;
}

LogitDifference expected_difference(const Tensor& a, const Tensor& b) {
  LogitDifference result;
  for (int64_t t = 0; t < a.rows; ++t) {
    const std::vector<double> p = softmax(a.row<float>(t), a.cols), q = softmax(b.row<float>(t), b.cols);
    for (int64_t i = 0; i < a.cols; ++i) {
      const double difference = double{a.row<float>(t)[i]} - b.row<float>(t)[i];
      result.largest = std::max(result.largest, std::abs(difference));
      result.rms += difference * difference;
      const auto j = static_cast<size_t>(i);
      result.divergence += p[j] * std::log(p[j] / q[j]);
    }
  }
  result.rms = std::sqrt(result.rms / static_cast<double>(a.size()));
  result.divergence /= static_cast<double>(a.rows);
  return result;
}

TEST(LogitDifference, IsThatOfTheWholeModels) {
  Stream stream(1);
  for (const char* name : {"mha", "gqa-tied", "qk-norm"}) {
    const std::string directory = std::string(NIBBLE_TEST_DATA) + "/model/data/llama/" + name;
    const ModelConfig config = read_huggingface_config(directory);
    const ParameterLayout layout(config);
    const ParameterSet first = import_huggingface(directory, layout, DType::f32),
                       second = import_huggingface(directory, layout, DType::f32);
    // Something of every kind is another number: a row of each matrix, an element of each gain.
    for (size_t i = 0; i < second.size(); ++i)
      for (int64_t j = 0; j < second[i].cols; ++j)
        second[i].row<float>(second[i].rows / 2)[j] *= j % 2 == 0 || second[i].rows > 1 ? 1.5f : 1.0f;
    const std::unique_ptr<WeightSource> a = held_weights(config, first), b = held_weights(config, second);
    const LogitDifference same = compare_logits(stream, *a, *a);
    EXPECT_EQ(same.largest, 0);
    EXPECT_EQ(same.rms, 0);
    EXPECT_EQ(same.divergence, 0);

    const LogitDifference expected =
        expected_difference(logits_of(stream, config, first), logits_of(stream, config, second));
    int64_t done = 0, of = 0;
    const LogitDifference found = compare_logits(stream, *a, *b, [&](int64_t now, int64_t all) {
      EXPECT_GT(now, done);
      done = now;
      of = all;
    });
    EXPECT_GT(expected.divergence, 1e-3) << name;
    EXPECT_NEAR(found.largest, expected.largest, 1e-4 * expected.largest) << name;
    EXPECT_NEAR(found.rms, expected.rms, 1e-5 * expected.rms) << name;
    EXPECT_NEAR(found.divergence, expected.divergence, 1e-4 * expected.divergence) << name;
    EXPECT_GE(done, of) << name;
  }
}

TEST(LogitDifference, IsNoNumberWhereALogitIsNone) {
  Stream stream(1);
  const std::string directory = std::string(NIBBLE_TEST_DATA) + "/model/data/llama/mha";
  const ModelConfig config = read_huggingface_config(directory);
  const ParameterSet sound = import_huggingface(directory, ParameterLayout(config), DType::f32),
                     broken = import_huggingface(directory, ParameterLayout(config), DType::f32);
  broken[1].row<float>(0)[0] = std::numeric_limits<float>::quiet_NaN();
  const LogitDifference found = compare_logits(stream, *held_weights(config, sound), *held_weights(config, broken));
  EXPECT_TRUE(std::isnan(found.largest));
  EXPECT_TRUE(std::isnan(found.rms));
}

}  // namespace
}  // namespace nibble
