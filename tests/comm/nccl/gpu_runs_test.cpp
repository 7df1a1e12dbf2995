// Whole runs on several GPUs: checkpoints by all ranks that other numbers of ranks go on from, what is recorded, and
// how a run ends that loses a rank.
#include <algorithm>
#include <filesystem>
#include <tuple>

#include "tests/comm/nccl/gpu_ranks.hpp"
#include "tests/trainer/small_run.hpp"

namespace nibble {
namespace {

using test::GpuWorld, test::run_on_gpus, test::run_well_on_gpus, test::scripted, test::texts_of;

class GpuRuns : public test::SmallRunTest {
 protected:
  Settings on_gpus(const std::string& run, std::vector<std::string> overrides = {}) const {
    overrides.insert(overrides.begin(),
                     {"model.layers=1", "batch.lanes=4", "steps=4", "validation.every=2", "validation.tokens=128",
                      "run.checkpoint.every=2", "run.device=cuda", "run.threads=1"});
    return settings(run, overrides);
  }

  void train(const GpuWorld& how, const Settings& settings, bool resume = false) const {
    run_well_on_gpus(how, [&](World& world) {
      EXPECT_EQ(TrainingRun(settings, {.world = &world, .resume = resume}).run(), TrainingRun::Outcome::finished);
    });
  }
  /// A run as it was after two steps.
  void cut(const std::string& run, const std::string& copy) const {
    std::filesystem::copy(path(run), path(copy), std::filesystem::copy_options::recursive);
    std::filesystem::remove_all(path(copy) + "/checkpoints/step_00000004");
  }
  nlohmann::json tuning(const std::string& run) const {
    std::ifstream file(path(run) + "/tuning.json");
    return nlohmann::json::parse(file);
  }
  /// As its last checkpoint has them.
  nlohmann::json products(const std::string& run) const {
    std::vector<RefusedCheckpoint> refused;
    return newest_valid_checkpoint(path(run), refused)->header().tuning.at("products");
  }
};

TEST_F(GpuRuns, GoOnFromOneGpuToManyAndBack) {
  train({.ranks = 1}, on_gpus("alone"));
  EXPECT_FALSE(tuning("alone").contains("gpu_exchange"));
  std::string before = "alone";
  for (const auto& [ranks, level] :
       {std::pair{2, "none"}, {4, "optimizer"}, {2, "gradients"}, {4, "parameters"}, {1, "none"}}) {
    const std::string run = std::to_string(ranks) + level;
    cut(before, run);
    train({.ranks = ranks}, on_gpus(run, {std::string("shard=") + level}), true);
    EXPECT_EQ(rows(run), rows("alone")) << run << " after " << before;
    if (ranks > 1) {
      EXPECT_EQ(tuning(run)["gpu_exchange"], "nccl");
    }
    EXPECT_EQ(products(run), products("alone")) << "recorded once";
    before = run;
  }
}

// Residuals, estimates and the weights of the step before go on where they were.
TEST_F(GpuRuns, GoOnWithCompressedExchanges) {
  using Overrides = std::vector<std::string>;
  for (const auto& [run, ranks, how] :
       {std::tuple{"sparse", 2,
                   Overrides{"gradients.exchange=sparcml", "gradients.density=10%", "gradients.algorithm=split",
                             "shard=optimizer"}},
        {"feedback", 2, Overrides{"gradients.exchange=quantized", "gradients.codec=fp8-nearest"}},
        {"ef21", 2, Overrides{"gradients.exchange=ef21", "gradients.codec=maxmin-4", "shard=optimizer"}},
        {"marina", 2,
         Overrides{"gradients.exchange=marina", "gradients.codec=eden-4", "gradients.full_probability=0.01",
                   "precision.recipe=fp32"}},
        {"played", 1,
         Overrides{"gradients.exchange=quantized", "gradients.codec=fp8-nearest", "gradients.virtual_ranks=2"}}}) {
    const std::string again = std::string(run) + " again";
    train({.ranks = ranks}, on_gpus(run, how));
    cut(run, again);
    train({.ranks = ranks}, on_gpus(again, how), true);
    EXPECT_EQ(rows(again), rows(run)) << run;
    EXPECT_EQ(rows(run).size(), 5u) << run;
  }
}

TEST_F(GpuRuns, FromTheStartAreThoseOfOneGpu) {
  train({.ranks = 1}, on_gpus("alone"));
  train({.ranks = 2}, on_gpus("two", {"shard=optimizer"}));
  EXPECT_EQ(rows("two"), rows("alone"));
}

// Each rank finds them for itself, behind a block whose sums depend on their order.
TEST_F(GpuRuns, BeginWithTheLearnedStepsOfOneGpu) {
  const std::vector<std::string> learns = {"precision.recipe=lsq-w4a4", "precision.keep_bf16.first=1", "model.layers=2",
                                           "model.width=128",           "model.init_std=0.3",          "steps=2"};
  train({.ranks = 1}, on_gpus("alone", learns));
  train({.ranks = 2}, on_gpus("two", learns));
  EXPECT_EQ(rows("two"), rows("alone"));
}

TEST_F(GpuRuns, RecordHowGpusSendAndDoSoAgain) {
  train({.ranks = 2}, on_gpus("run", {"run.gpu_exchange=staged"}));
  EXPECT_EQ(tuning("run")["gpu_exchange"], "staged");
  cut("run", "again");
  cut("run", "other");
  train({.ranks = 2}, on_gpus("again"), true);
  EXPECT_EQ(tuning("again")["gpu_exchange"], "staged");
  train({.ranks = 2}, on_gpus("other", {"run.gpu_exchange=hierarchical"}), true);
  EXPECT_EQ(tuning("other")["gpu_exchange"], "hierarchical");
  for (const char* const run : {"again", "other"}) EXPECT_EQ(rows(run), rows("run")) << run;
}

TEST_F(GpuRuns, GoThroughTheHostWhereRanksShareAGpuOrLackNccl) {
  train({.ranks = 2, .gpus = 1}, on_gpus("shared"));
  train({.ranks = 2, .faults = {.missing = "libnccl.so.2: not found"}}, on_gpus("without"));
  for (const char* const run : {"shared", "without"}) EXPECT_EQ(tuning(run)["gpu_exchange"], "staged") << run;
  EXPECT_EQ(rows("shared"), rows("without"));
}

TEST_F(GpuRuns, SayWhatTheyCannotHave) {
  // What the first rank that failed says; others may only see that it is gone.
  const auto expect_refused = [&](const GpuWorld& how, const std::string& wish, const std::vector<std::string>& parts) {
    const std::vector<std::string> texts = texts_of(run_on_gpus(how, [&](World& world) {
      TrainingRun(on_gpus("refused", {"run.gpu_exchange=" + wish}), {.world = &world}).run();
    }));
    for (const std::string& part : parts)
      EXPECT_TRUE(
          std::ranges::any_of(texts, [&](const std::string& text) { return text.find(part) != std::string::npos; }))
          << part << " is neither in " << texts[0] << " nor in " << texts[1];
    for (const std::string& text : texts) EXPECT_NE(text, "");
  };
  expect_refused({.ranks = 2, .gpus = 1}, "nccl", {"configuration error", "ranks 0 and 1 share a GPU"});
  expect_refused({.ranks = 2, .faults = {.missing = "no libnccl"}}, "hierarchical", {"has none: no libnccl"});
  expect_refused({.ranks = 2, .faults = {.unique_id = ncclSystemError}}, "auto",
                 {"communication error: NCCL does not start", "of 2 on ", "as the double was told", "NCCL_DEBUG"});
}

TEST_F(GpuRuns, AnErrorOfNcclEndsThemInMidRun) {
  const std::vector<std::string> texts = texts_of(
      run_on_gpus({.ranks = 2, .faults = {.failing = 1, .groups_before = 60, .all_learn = true}}, [&](World& world) {
        TrainingRun(on_gpus("run", {"shard=gradients", "steps=50"}), {.world = &world}).run();
      }));
  for (const std::string& text : texts) EXPECT_TRUE(text.starts_with("communication error: ")) << text;
  EXPECT_TRUE((texts[0] + texts[1]).find("NCCL failed") != std::string::npos) << texts[0] << texts[1];
  EXPECT_GT(rows("run").size(), 2u) << "it failed before it had begun";
  EXPECT_LT(rows("run").size(), 50u);
}

// As the liveness channel has it where a rank has died.
TEST_F(GpuRuns, AnAbortEndsThemInMidRun) {
  for (const int gpus : {2, 1}) {
    const std::string run = std::to_string(gpus);
    std::vector<World*> worlds(2);
    const std::vector<std::string> texts = texts_of(run_on_gpus({.ranks = 2, .gpus = gpus}, [&](World& world) {
      worlds[static_cast<size_t>(world.rank())] = &world;
      TrainingRunOptions options = scripted({.on_finish = [&](int64_t step) {
        if (step == 3 && world.rank() == 1)
          for (World* const other : worlds) other->thread().abandon();
      }});
      options.world = &world;
      TrainingRun(on_gpus(run), options).run();
    }));
    for (const std::string& text : texts) EXPECT_NE(text.find("abandoned"), std::string::npos) << text;
    EXPECT_EQ(rows(run).size(), 4u) << "step 0 and the first three";
  }
}

}  // namespace
}  // namespace nibble
