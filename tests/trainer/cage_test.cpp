#include "trainer/cage.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "comm/local_world.hpp"
#include "quant/precision.hpp"
#include "trainer/shard_plan.hpp"

namespace nibble {
namespace {

TEST(Cage, IsSilentFirstAndAtFullStrengthAtTheLastStep) {
  const CageSettings settings{.strength = 10, .silence = 0.8, .steps = 100};
  EXPECT_EQ(cage_strength(settings, 0), 0);
  EXPECT_EQ(cage_strength(settings, 79), 0);  // (79 + 1) / 100 = 0.8
  EXPECT_NEAR(cage_strength(settings, 89), 5, 1e-12);
  EXPECT_NEAR(cage_strength(settings, 99), 10, 1e-12);
  EXPECT_EQ(cage_strength({.steps = 100}, 99), 0);
}

/// A small model under a recipe, with random masters.
struct SmallRun {
  explicit SmallRun(const char* recipe, double strength = 10)
      : model(stream, config(), find_recipe(recipe), {.sequences = 1, .length = 128}),
        plan(model.layout(), Shard::none, 0, 1, 4, 4),
        world(make_local_world()),
        weights(stream, model, world->thread(), plan),
        cage(stream, model, weights, {.strength = strength, .silence = 0, .steps = 1}) {
    weights.fill([&](size_t parameter, const Tensor& whole) {
      initialize_parameter(stream, model.config(), model.layout(), parameter, 7, 0.02, whole);
    });
    weights.publish();
  }
  static ModelConfig config() {
    ModelConfig shape;
    shape.width = 128, shape.layers = 2, shape.heads = 2, shape.kv_heads = 2, shape.head_dim = 64, shape.ffn = 256;
    shape.vocabulary = 64, shape.context = 128;
    return shape;
  }
  std::vector<float> masters(ParameterKind kind) const {
    std::vector<float> all;
    for (const OptimizedParameter& parameter : weights.parameters())
      if (parameter.info->kind == kind)
        all.insert(all.end(), parameter.master.as<float>(), parameter.master.as<float>() + parameter.master.size());
    return all;
  }
  /// The residual's Euclidean norm over all projections.
  double residual() {
    double squares = 0;
    for (int buffer = 0; buffer < static_cast<int>(model.layout().buffers().size()); ++buffer) {
      const BufferInfo& info = model.layout().buffers()[static_cast<size_t>(buffer)];
      if (info.kind != ParameterKind::projection) continue;
      const OwnedTensor off(DType::f32, info.rows, info.cols);
      if (!model.weight_residual(weights.working(), buffer, 0, off)) continue;
      for (int64_t i = 0; i < off.view().size(); ++i) squares += std::pow(off.view().as<float>()[i], 2);
    }
    return std::sqrt(squares);
  }

  Stream stream{2};
  Llama model;
  ShardPlan plan;
  std::unique_ptr<World> world;
  ShardedWeights weights;
  Cage cage;
};

TEST(Cage, LeavesAModelThatIsNotQuantizedAlone) {
  SmallRun run("bf16");
  const std::vector<float> before = run.masters(ParameterKind::projection);
  run.cage.pull(0, 1e-2);
  EXPECT_EQ(run.masters(ParameterKind::projection), before);
}

TEST(Cage, MovesMastersByTheLearningRateTimesStrengthTimesTheResidual) {
  SmallRun run("quest-w4a4-plain");
  const std::vector<float> before = run.masters(ParameterKind::projection);
  const double residual = run.residual();
  ASSERT_GT(residual, 0.1);
  run.cage.pull(0, 1e-2);
  const std::vector<float> after = run.masters(ParameterKind::projection);
  double squares = 0;
  for (size_t i = 0; i < before.size(); ++i) squares += std::pow(before[i] - after[i], 2);
  EXPECT_NEAR(std::sqrt(squares), 1e-2 * 10 * residual, 1e-4 * residual);
}

TEST(Cage, BringsRotatedWeightsToTheirGrid) {
  SmallRun run("quest-w4a4");
  const double before = run.residual();
  run.cage.pull(0, 0.05);  // half of the way
  run.weights.round();
  EXPECT_LT(run.residual(), 0.65 * before);
  const std::vector<float> gains = run.masters(ParameterKind::norm);
  EXPECT_TRUE(std::ranges::all_of(gains, [](float gain) { return gain == 1; }));
}

}  // namespace
}  // namespace nibble
