// QK-clip by its formula, and on a model of one layer: the same batch again has the logits that the formula says.
#include "trainer/qk_clip.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "comm/local_world.hpp"
#include "optim/sgd.hpp"
#include "optim/weight_decay.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/scripted_exchange.hpp"
#include "trainer/train_step.hpp"

namespace nibble {
namespace {

TEST(QkClip, ScalesBothSidesAlikeWhereEachHeadHasItsKey) {
  const std::vector<float> factors = qk_clip_factors(std::vector<float>{50, 400, -3}, 3, 100);
  const std::vector<float> expected = {1, 0.5, 1, 1, 0.5, 1};
  EXPECT_EQ(factors, expected);
}

TEST(QkClip, SharedKeysShrinkByTheWorstHeadAndQueriesMakeUpForIt) {
  // gamma: 1, 1/4, 1/9 | 1, 1, 1
  const std::vector<float> factors = qk_clip_factors(std::vector<float>{99, 400, 900, 100, 20, 30}, 2, 100);
  const std::vector<double> expected = {3, 0.75, 1.0 / 3, 1, 1, 1, 1.0 / 3, 1};
  ASSERT_EQ(factors.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_FLOAT_EQ(factors[i], static_cast<float>(expected[i])) << i;
}

/// One layer that learns next to nothing, so that only QK-clip moves its weights.
struct OneLayer {
  static constexpr int64_t length = 24;

  OneLayer(int64_t kv_heads, double threshold, int threads = 1, const test::ScriptedExchange::Script& script = {})
      : stream(threads),
        config{.vocabulary = 40,
               .width = 32,
               .layers = 1,
               .heads = 4,
               .kv_heads = kv_heads,
               .head_dim = 8,
               .ffn = 48,
               .context = length},
        model(stream, config, find_recipe("fp32"), {.sequences = 2, .length = length}),
        world(make_local_world()),
        step(
            stream, model, *world,
            {.micro_batches = 2,
             .lanes = 2,
             .qk_clip = threshold,
             .schedule = {.kind = ScheduleKind::constant, .peak = 1e-30, .steps = 10}},
            weight_decay_mask(model.layout().parameters(), default_no_decay),
            [](std::vector<OptimizedParameter> parameters, const ParameterShares&) {
              return std::make_unique<Sgd>(std::move(parameters), SgdSettings{.momentum = 0, .weight_decay = 0});
            },
            test::disturbed(script)) {
    step.fill_masters([this](size_t parameter, const Tensor& whole) {
      initialize_parameter(stream, config, model.layout(), parameter, 11, 0.5, whole);
    });
    batch = {.sequences = 4, .length = length, .inputs = {}, .targets = {}, .document_starts = {}, .loss_tokens = 96};
    for (int32_t token = 0; token < 4 * length; ++token) {
      batch.inputs.push_back(token * token % 37);
      batch.targets.push_back((token + 1) * (token + 1) % 37);
    }
  }

  /// The logits that the step's forward pass met, by head.
  std::vector<float> run(int64_t number, StepResult* result = nullptr) {
    const StepResult one = step.run(number, batch);
    if (result) *result = one;
    return {model.max_logits().begin(), model.max_logits().end()};
  }
  std::vector<float> masters() {
    StateList list;
    step.state(list);
    std::vector<float> all;
    for (const StateList::Entry& entry : list.entries())
      if (entry.name.starts_with("weights/"))
        all.insert(all.end(), entry.tensor.as<float>(), entry.tensor.as<float>() + entry.tensor.size());
    return all;
  }

  Stream stream;
  ModelConfig config;
  Llama model;
  std::unique_ptr<World> world;
  TrainStep step;
  Batch batch;
};

TEST(QkClip, TheSameBatchAgainHasLogitsUpToTheThreshold) {
  for (const int64_t kv_heads : {4, 2, 1}) {
    const std::vector<float> before = OneLayer(kv_heads, 0).run(0);
    std::vector<float> sorted = before;
    std::ranges::sort(sorted);
    const double tau = 0.5 * (sorted[1] + sorted[2]);  // two heads are above
    ASSERT_GT(tau, 0);
    OneLayer clipped(kv_heads, tau);
    StepResult first, second;
    EXPECT_EQ(clipped.run(0, &first), before);
    EXPECT_EQ(first.clipped_heads, 2);
    EXPECT_EQ(first.max_logit, sorted[3]);
    const std::vector<float> after = clipped.run(1, &second);
    for (size_t head = 0; head < 4; ++head) {
      EXPECT_LE(after[head], tau * (1 + 1e-5)) << kv_heads << head;
      EXPECT_NEAR(after[head] / std::min<double>(before[head], tau), 1, 1e-5) << kv_heads << head;
    }
    EXPECT_NE(after, before);
  }
}

TEST(QkClip, ChangesQueriesAndKeysAlone) {
  OneLayer clipped(2, 0.1), other(2, 0);
  clipped.run(0);
  other.run(0);
  for (size_t i = 0; i < clipped.step.weights().size(); ++i) {
    const ParameterInfo& info = clipped.model.layout().parameters()[i];
    const Tensor &a = clipped.step.weights()[i], &b = other.step.weights()[i];
    bool same = true;
    for (int64_t row = 0; row < a.rows; ++row)
      same = same && std::equal(a.row<float>(row), a.row<float>(row) + a.cols, b.row<float>(row));
    EXPECT_EQ(same, !info.name.ends_with("q_proj.weight") && !info.name.ends_with("k_proj.weight")) << info.name;
  }
}

TEST(QkClip, ThreadsChangeNoBit) {
  OneLayer one(2, 0.1, 1), four(2, 0.1, 4);
  for (int64_t step = 0; step < 2; ++step) EXPECT_EQ(one.run(step), four.run(step));
  EXPECT_EQ(one.masters(), four.masters());
}

TEST(QkClip, ARefusedStepClipsNothing) {
  const auto script =
      test::poisoned(std::numeric_limits<float>::quiet_NaN(), 0, [](int64_t step) { return step == 0; });
  OneLayer layer(2, 0.1, 1, script);
  const std::vector<float> before = layer.masters();
  StepResult result;
  layer.run(0, &result);
  EXPECT_TRUE(result.refused);
  EXPECT_EQ(result.clipped_heads, 0);
  EXPECT_GT(result.max_logit, 0.1);
  EXPECT_EQ(layer.masters(), before);
  layer.run(1, &result);
  EXPECT_FALSE(result.refused);
  EXPECT_GT(result.clipped_heads, 0);
}

// A model that was read brings QK-norm without a setting.
TEST(QkClip, AModelWithQkNormIsRefused) {
  Stream stream(1);
  ModelConfig config;
  config.vocabulary = 40, config.width = 32, config.layers = 1, config.heads = 4, config.kv_heads = 2;
  config.head_dim = 8, config.ffn = 48, config.context = 16, config.qk_norm = true;
  Llama model(stream, config, find_recipe("fp32"), {.sequences = 1, .length = 16});
  const std::unique_ptr<World> world = make_local_world();
  const ShardPlan plan(model.layout(), Shard::none, 0, 1, 1, 1);
  const ShardedWeights weights(stream, model, world->thread(), plan);
  expect_error(ErrorKind::configuration, {"QK-clip", "optimizer.qk_clip, model.qk_norm"},
               [&] { QkClip(stream, model, weights, 100); });
  EXPECT_NO_THROW(QkClip(stream, model, weights, 0));
}

}  // namespace
}  // namespace nibble
