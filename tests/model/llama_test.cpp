// The whole model against the float64 results of PyTorch on the reference Llamas (data/llama).
#include "model/llama.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/random.hpp"
#include "tests/model/finite_differences.hpp"

namespace nibble {
namespace {

using test::ReferenceLlama, test::relative_error;

nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

class Reference : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Llamas, Reference, ::testing::Values("mha", "gqa-tied", "qk-norm"));
class ReferenceBesideAutocast : public Reference {};  // those of data/pytorch_bf16_errors.json
INSTANTIATE_TEST_SUITE_P(Llamas, ReferenceBesideAutocast, ::testing::Values("mha", "gqa-tied"));

TEST_P(Reference, Fp32LossAndEveryGradient) {
  ReferenceLlama llama(GetParam());
  const double expected = read_json(llama.directory + "/expected.json")["loss"];
  EXPECT_NEAR(llama.run(), expected, 1e-6 * expected);
  for (size_t i = 0; i < llama.gradients.size(); ++i) {
    const std::string& name = llama.model.layout().parameters()[i].name;
    EXPECT_LT(relative_error(llama.gradients[i], llama.expected[name]), 1e-5) << name;
  }
}

// Rounding these weights to bf16 alone moves some gradients by 2.4e-2, so the yardstick is what PyTorch's autocast
// does to the same models (data/pytorch_bf16_errors.json: up to 3.1e-2, and a loss off by 0.8e-3 to 5.4e-3).
TEST_P(ReferenceBesideAutocast, Bf16ErrorsAreThoseOfPyTorchsAutocast) {
  ReferenceLlama llama(GetParam(), "bf16");
  const nlohmann::json pytorch = read_json(test::data("pytorch_bf16_errors.json"))["models"][GetParam()];
  const double expected = read_json(llama.directory + "/expected.json")["loss"];
  EXPECT_NEAR(llama.run(), expected, pytorch["transformers"]["loss_error"].get<double>());
  for (size_t i = 0; i < llama.gradients.size(); ++i) {
    const std::string& name = llama.model.layout().parameters()[i].name;
    const double error = relative_error(llama.gradients[i], llama.expected[name]);
    EXPECT_LT(error, 1.5 * pytorch["definition"]["gradient_error"].at(name).get<double>()) << name;
  }
}

// Against fp32 arithmetic on the same rounded weights, which leaves the rounding of operands and activations.
TEST_P(Reference, Bf16ArithmeticOnRoundedWeights) {
  ReferenceLlama narrow(GetParam(), "bf16"), wide(GetParam());
  copy_parameters(wide.stream, narrow.weights, wide.weights);
  const double expected = wide.run();
  // Heads that are normalised are rounded once more.
  const bool normalises_heads = narrow.model.config().qk_norm;
  EXPECT_NEAR(narrow.run(), expected, normalises_heads ? 3e-3 : 2.5e-3);
  for (size_t i = 0; i < wide.gradients.size(); ++i)
    EXPECT_LT(relative_error(narrow.gradients[i], wide.gradients[i]), 2.5e-2)
        << wide.model.layout().parameters()[i].name;
}

TEST_P(Reference, Logits) {
  ReferenceLlama llama(GetParam());
  const OwnedTensor logits(DType::f32, llama.model.tokens(), llama.config.vocabulary);
  llama.model.logits(llama.weights, llama.batch(), logits);
  EXPECT_LT(relative_error(logits, llama.batch_file["logits"]), 1e-6);
}

TEST_P(Reference, RecomputationIsBitIdentical) {
  for (const char* recipe : {"fp32", "bf16"}) {
    ReferenceLlama kept(GetParam(), recipe), recomputed(GetParam(), recipe, Recompute::block);
    EXPECT_EQ(kept.run(), recomputed.run());
    for (size_t i = 0; i < kept.gradients.size(); ++i)
      EXPECT_EQ(std::memcmp(kept.gradients[i].data, recomputed.gradients[i].data, kept.gradients[i].bytes()), 0)
          << kept.model.layout().parameters()[i].name;
    EXPECT_LT(recomputed.model.activation_bytes(), kept.model.activation_bytes());
  }
}

TEST_P(Reference, EvaluationGivesTheTrainingLoss) {
  ReferenceLlama llama(GetParam());
  Llama evaluation(llama.stream, llama.config, find_recipe("fp32"),
                   {.sequences = llama.batch_file["tokens"].rows, .length = 32, .training = false});
  const double loss = evaluation.loss(llama.weights, llama.batch()) / static_cast<double>(llama.inputs.size());
  EXPECT_EQ(loss, llama.run());
}

TEST_P(Reference, AGradientOverwritesTheOneBefore) {
  ReferenceLlama once(GetParam()), twice(GetParam());
  once.run();
  twice.run();
  twice.run();
  for (size_t i = 0; i < once.gradients.size(); ++i)
    EXPECT_EQ(relative_error(twice.gradients[i], once.gradients[i]), 0);
}

TEST_P(Reference, BuffersAreCompletedInTheBackwardOrder) {
  ReferenceLlama llama(GetParam());
  std::vector<int> order;
  llama.model.loss_and_gradients(llama.weights, llama.batch(),
                                 {.loss_scale = llama.loss_scale(), .ready = [&](int b) { order.push_back(b); }},
                                 llama.gradients);
  EXPECT_EQ(order, llama.model.layout().backward_order());
}

// Weights are brought into a rotating set when a unit is awaited, gradients are taken out of one when a buffer is
// ready.
TEST_P(Reference, RotatingMemoryChangesNoBit) {
  ReferenceLlama llama(GetParam());
  const double loss = llama.run();
  const ParameterLayout& layout = llama.model.layout();
  ParameterSet weights(layout, DType::f32, DType::f32, true, "weights", Residency::rotating),
      gradients(layout, DType::f32, DType::f32, false, "gradients", Residency::rotating);
  const ParameterSet kept = llama.model.make_gradients();
  weights.on_await([&](int unit) {
    for (int buffer = 0; buffer < std::ssize(layout.buffers()); ++buffer)
      if (layout.unit_of(buffer) == unit) convert(llama.stream, llama.weights.buffer(buffer), weights.buffer(buffer));
  });
  const auto ready = [&](int buffer) { convert(llama.stream, gradients.buffer(buffer), kept.buffer(buffer)); };
  const double rotating =
      llama.model
          .loss_and_gradients(weights, llama.batch(), {.loss_scale = llama.loss_scale(), .ready = ready}, gradients)
          .cross_entropy;
  EXPECT_EQ(rotating / static_cast<double>(llama.inputs.size()), loss);
  for (size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(relative_error(kept[i], llama.gradients[i]), 0) << i;
}

TEST_P(Reference, EachBufferIsReportedOnceAndComplete) {
  ReferenceLlama llama(GetParam());
  llama.run();
  std::vector<std::vector<char>> complete;
  for (size_t i = 0; i < llama.model.layout().buffers().size(); ++i) {
    const Tensor& gradient = llama.gradients.buffer(static_cast<int>(i));
    complete.emplace_back(static_cast<char*>(gradient.data), static_cast<char*>(gradient.data) + gradient.bytes());
  }
  std::set<int> seen;
  const auto ready = [&](int buffer) {
    EXPECT_TRUE(seen.insert(buffer).second);
    EXPECT_EQ(std::memcmp(llama.gradients.buffer(buffer).data, complete[static_cast<size_t>(buffer)].data(),
                          complete[static_cast<size_t>(buffer)].size()),
              0)
        << buffer;
  };
  llama.model.loss_and_gradients(llama.weights, llama.batch(), {.loss_scale = llama.loss_scale(), .ready = ready},
                                 llama.gradients);
  EXPECT_EQ(seen.size(), llama.model.layout().buffers().size());
}

TEST_P(Reference, ThreadsChangeRoundingOnly) {
  ReferenceLlama llama(GetParam());
  const double loss = llama.run();
  Stream alone(1);
  Llama model(alone, llama.config, find_recipe("fp32"), {.sequences = llama.batch_file["tokens"].rows, .length = 32});
  const ParameterSet gradients = model.make_gradients();
  const double loss_alone =
      model.loss_and_gradients(llama.weights, llama.batch(), {.loss_scale = llama.loss_scale()}, gradients)
          .cross_entropy /
      static_cast<double>(llama.inputs.size());
  EXPECT_NEAR(loss_alone, loss, 1e-6);  // oneDNN may cut its sums differently
  for (size_t i = 0; i < gradients.size(); ++i) EXPECT_LT(relative_error(gradients[i], llama.gradients[i]), 1e-5);
}

TEST(LlamaGradient, AgreesWithFiniteDifferencesInEveryParameter) {
  for (const char* name : {"gqa-tied", "qk-norm"}) {
    ReferenceLlama llama(name);
    llama.run();
    test::expect_finite_differences(llama, [&] {
      return llama.model.loss(llama.weights, llama.batch()) / static_cast<double>(llama.inputs.size());
    });
  }
}

// Two documents in one window, apart by document_starts, lose and pull like each in a window of its own.
TEST_P(Reference, DocumentsInOneWindowDoNotSeeEachOther) {
  ReferenceLlama together(GetParam()), apart(GetParam());
  std::vector<int32_t> starts(64, 0), first_targets = apart.targets, second_inputs = apart.inputs,
                                      second_targets = apart.targets;
  for (size_t i = 12; i < 32; ++i) starts[i] = 12;  // the first sequence holds documents of 12 and 20 tokens
  const double loss = together.model
                          .loss_and_gradients(together.weights, {together.inputs, together.targets, starts},
                                              {.loss_scale = together.loss_scale()}, together.gradients)
                          .cross_entropy;
  // The same loss in two passes: all but the second document, then that one moved to the front of a window.
  for (size_t i = 12; i < 32; ++i) first_targets[i] = -1;
  for (size_t i = 0; i < 64; ++i) second_targets[i] = -1;
  for (size_t i = 0; i < 20; ++i) second_inputs[i] = apart.inputs[12 + i], second_targets[i] = apart.targets[12 + i];
  double sum = apart.model
                   .loss_and_gradients(apart.weights, {apart.inputs, first_targets, {}},
                                       {.loss_scale = apart.loss_scale()}, apart.gradients)
                   .cross_entropy;
  const ParameterSet second = apart.model.make_gradients();
  sum += apart.model
             .loss_and_gradients(apart.weights, {second_inputs, second_targets, {}}, {.loss_scale = apart.loss_scale()},
                                 second)
             .cross_entropy;
  for (size_t i = 0; i < second.size(); ++i) add(apart.stream, second[i], apart.gradients[i]);
  EXPECT_NEAR(loss, sum, 1e-4);
  for (size_t i = 0; i < apart.gradients.size(); ++i)
    EXPECT_LT(relative_error(together.gradients[i], apart.gradients[i]), 1e-5)
        << together.model.layout().parameters()[i].name;
}

TEST(LlamaErrors, TokensOutsideTheVocabulary) {
  ReferenceLlama llama("mha");
  llama.inputs[5] = 256;
  EXPECT_THROW(llama.run(), Error);
  llama.inputs[5] = 0;
  llama.targets[3] = -2;
  EXPECT_THROW(llama.run(), Error);
  llama.targets[3] = -1;
  EXPECT_NO_THROW(llama.run());
  llama.inputs.pop_back();
  EXPECT_THROW(llama.run(), Error);
}

TEST(LlamaErrors, ImpossibleShapes) {
  ModelConfig config{.vocabulary = 256,
                     .width = 64,
                     .layers = 2,
                     .heads = 4,
                     .kv_heads = 2,
                     .head_dim = 16,
                     .ffn = 176,
                     .context = 32};
  EXPECT_NO_THROW(config.validate());
  const auto refused = [&](auto change) {
    ModelConfig changed = config;
    change(changed);
    EXPECT_THROW(changed.validate(), Error);
  };
  refused([](ModelConfig& c) { c.kv_heads = 3; });
  refused([](ModelConfig& c) { c.head_dim = 15; });
  refused([](ModelConfig& c) { c.layers = 0; });
  refused([](ModelConfig& c) { c.vocabulary = -1; });
  refused([](ModelConfig& c) { c.rope_theta = 0; });
  refused([](ModelConfig& c) { c.rope_scaling = RopeScaling{.factor = 0}; });
}

TEST(Initialization, HasTheDeviationsItSays) {
  Stream stream(2);
  const ModelConfig config{.vocabulary = 300,
                           .width = 128,
                           .layers = 4,
                           .heads = 4,
                           .kv_heads = 2,
                           .head_dim = 32,
                           .ffn = 352,
                           .context = 32};
  const ParameterLayout layout(config);
  const ParameterSet weights(layout, DType::f32, DType::f32, false, "weights");
  initialize(stream, config, layout, 1, 0.02, weights);
  for (size_t i = 0; i < weights.size(); ++i) {
    const ParameterInfo& info = layout.parameters()[i];
    double sum = 0, squares = 0;
    for (int64_t e = 0; e < info.size(); ++e) {
      const double w = weights[i].as<float>()[e];
      sum += w;
      squares += w * w;
    }
    const double n = static_cast<double>(info.size()), mean = sum / n, deviation = std::sqrt(squares / n - mean * mean);
    const double expected = info.kind == ParameterKind::norm ? 0 : info.to_residual ? 0.02 / std::sqrt(8.0) : 0.02;
    EXPECT_NEAR(deviation, expected, 5 * expected / std::sqrt(2 * n) + 1e-9) << info.name;
    EXPECT_NEAR(mean, info.kind == ParameterKind::norm ? 1 : 0, 5 * expected / std::sqrt(n) + 1e-9) << info.name;
  }
}

TEST(Layout, CountsTheParametersOfKnownModels) {  // reference 2.1
  const auto count = [](ModelConfig config) {
    const ParameterLayout layout(config);
    int64_t total = 0;
    for (const ParameterInfo& info : layout.parameters()) total += info.size();
    EXPECT_EQ(total, config.parameters());
    return total;
  };
  EXPECT_EQ(count({.vocabulary = 32000,
                   .width = 4096,
                   .layers = 32,
                   .heads = 32,
                   .kv_heads = 32,
                   .head_dim = 128,
                   .ffn = 11008}),
            6738415616);
  EXPECT_EQ(count({.vocabulary = 128256,
                   .width = 4096,
                   .layers = 32,
                   .heads = 32,
                   .kv_heads = 8,
                   .head_dim = 128,
                   .ffn = 14336}),
            8030261248);
  EXPECT_EQ(count({.vocabulary = 128256,
                   .width = 2048,
                   .layers = 16,
                   .heads = 32,
                   .kv_heads = 8,
                   .head_dim = 64,
                   .ffn = 8192,
                   .tied = true}),
            1235814400);
}

}  // namespace
}  // namespace nibble
