// What changes masters beside the optimizer does to a device's what it does to the host's, to the bit: CAGE and
// QK-clip.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "comm/local_world.hpp"
#include "tests/cuda/on_device.hpp"
#include "trainer/cage.hpp"
#include "trainer/qk_clip.hpp"

namespace nibble {
namespace {

/// The weights of a small model, drawn; of one of several ranks, which it does not send to.
class Weights {
 public:
  Weights(Place place, const ModelConfig& config, const char* recipe, Shard shard = Shard::none, int rank = 0,
          int ranks = 1)
      : stream_(2, place),
        model_(stream_, config, find_recipe(recipe), {.sequences = 1, .length = 128}),
        plan_(model_.layout(), shard, rank, ranks, 4, 4),
        weights_(stream_, model_, world_->thread(), plan_) {
    weights_.fill([&](size_t parameter, const Tensor& whole) {
      initialize_parameter(stream_.host(), config, model_.layout(), parameter, 7, 0.02, whole);
    });
  }

  void pull(double strength) {
    Cage(stream_, model_, weights_, {.strength = strength, .silence = 0, .steps = 1}).pull(0, 1e-2);
  }
  int64_t clip(const std::vector<float>& max_logits, double threshold) {
    return QkClip(stream_, model_, weights_, threshold).apply(max_logits);
  }

  const std::vector<OptimizedParameter>& parameters() const { return weights_.parameters(); }
  /// Of a parameter, by its number: what this rank has.
  std::vector<float> master(size_t i) { return values(weights_.parameters()[i].master); }
  /// Of all ranks' elements.
  std::vector<float> working(size_t i) { return values(weights_.parameters()[i].working); }

 private:
  std::vector<float> values(const Tensor& there) {
    const OwnedTensor here(DType::f32, there.rows, there.cols);
    if (stream_.on_device()) {
      const OwnedTensor copied = testing::on_host(stream_, there);
      convert(stream_.host(), copied, here);
    } else {
      convert(stream_, there, here);
    }
    return {here.view().as<float>(), here.view().as<float>() + here.view().size()};
  }

  std::unique_ptr<World> world_ = make_local_world();
  Stream stream_;
  Llama model_;
  ShardPlan plan_;
  ShardedWeights weights_;
};

ModelConfig small(int64_t width, int64_t heads, int64_t kv_heads, int64_t ffn) {
  ModelConfig config;
  config.width = width, config.layers = 2, config.heads = heads, config.kv_heads = kv_heads;
  config.head_dim = width / heads, config.ffn = ffn, config.vocabulary = 64, config.context = 128;
  return config;
}

TEST(CageOnDevice, PullsAsOnTheHost) {
  const ModelConfig config = small(128, 2, 2, 256);
  for (const char* recipe : {"quest-w4a4", "quest-w3a3-plain", "bf16"}) {
    Weights here(Place::host, config, recipe), there(Place::device, config, recipe), left(Place::host, config, recipe);
    here.pull(10);
    there.pull(10);
    size_t moved = 0, projections = 0;
    for (size_t i = 0; i < here.parameters().size(); ++i) {
      const std::vector<float> expected = here.master(i);
      EXPECT_EQ(there.master(i), expected) << recipe << ", " << here.parameters()[i].info->name;
      moved += expected != left.master(i);
      projections += here.parameters()[i].info->kind == ParameterKind::projection;
    }
    EXPECT_EQ(moved, recipe == std::string("bf16") ? 0 : projections) << recipe;
  }
}

// Runs of ranks begin and end in the midst of rows.
TEST(QkClipOnDevice, ScalesRowsOfHeadsAsOnTheHost) {
  const ModelConfig config = small(192, 8, 2, 16);  // runs end after 4096 elements, in a third of a row, or more
  int64_t within_rows = 0;
  const std::vector<float> logits = {99, 400, 900, 100, 20, 30, 250, 101, 7, 7, 7, 180, 190, 200, 210, 220};
  const double threshold = 100;
  Weights before(Place::host, config, "bf16");
  for (const auto& [shard, ranks] : {std::pair{Shard::none, 1}, {Shard::optimizer, 4}, {Shard::parameters, 2}})
    for (int rank = 0; rank < ranks; ++rank) {
      Weights here(Place::host, config, "bf16", shard, rank, ranks),
          there(Place::device, config, "bf16", shard, rank, ranks);
      EXPECT_EQ(here.clip(logits, threshold), 9);
      EXPECT_EQ(there.clip(logits, threshold), 9);
      for (size_t i = 0; i < before.parameters().size(); ++i) {
        const OptimizedParameter& run = here.parameters()[i];
        const ParameterInfo& info = *run.info;
        const std::vector<float> whole = before.master(i);
        std::vector<float> expected(whole.begin() + run.first, whole.begin() + run.first + run.master.size());
        const bool of_heads = info.name.ends_with("q_proj.weight") || info.name.ends_with("k_proj.weight");
        within_rows += of_heads && run.first % info.cols != 0 && run.master.size() > info.cols * config.head_dim;
        for (int64_t j = 0; j < run.master.size() && of_heads; ++j) {
          const int64_t head = (info.first_row + (run.first + j) / info.cols) / config.head_dim;
          const std::vector<float> of_layer(logits.begin() + info.layer * 8, logits.begin() + info.layer * 8 + 8);
          expected[static_cast<size_t>(j)] *=
              qk_clip_factors(of_layer, config.kv_heads, threshold)[static_cast<size_t>(head)];
        }
        EXPECT_EQ(here.master(i), expected) << info.name << ", rank " << rank << " of " << ranks;
        EXPECT_EQ(there.master(i), expected) << info.name << ", rank " << rank << " of " << ranks;
        EXPECT_EQ(there.working(i), here.working(i)) << info.name << ", rank " << rank << " of " << ranks;
        EXPECT_EQ(
            expected != std::vector<float>(whole.begin() + run.first, whole.begin() + run.first + run.master.size()),
            of_heads && run.master.size() > 0)
            << info.name;
      }
    }
  EXPECT_GT(within_rows, 0) << "no run begins in the midst of a row";
}

}  // namespace
}  // namespace nibble
