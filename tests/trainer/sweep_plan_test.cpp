// From sweep.yaml to runs and tasks: no model is trained here, no token file opened.
#include "trainer/sweep_plan.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "expect_error.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/resolve.hpp"
#include "trainer/sweep_identity.hpp"
#include "trainer/sweep_points.hpp"

namespace nibble {
namespace {

const std::string base =
    "directory: runs/sweep\n"
    "base:\n"
    "  model: {width: 32, layers: 2, heads: 2, ffn: 64, vocab: 256}\n"
    "  data: {train: train.h5, validation: validation.h5, sequence: 32}\n"
    "  batch: {tokens: 256, micro: 2}\n"
    "  steps: 100\n"
    "  schedule: {name: wsd, warmup: 10, decay: 20%}\n";

class SweepPlanTest : public TemporaryDirectoryTest {
 protected:
  SweepFile file(const std::string& yaml) const {
    const std::filesystem::path path = directory_ / "sweep.yaml";
    write(path, base + yaml);
    return read_sweep(path.string());
  }
  SweepPlan plan(const std::string& yaml) const { return plan_sweep(file(yaml)); }
  static std::vector<std::string> names(const SweepPlan& plan) {
    std::vector<std::string> result;
    for (const SweepRun& run : plan.runs) result.push_back(run.name);
    return result;
  }
  static std::vector<std::string> tasks(const SweepPlan& plan) {
    std::vector<std::string> result;
    for (const SweepTask& task : plan.tasks) result.push_back(task.id);
    return result;
  }
  using Names = std::vector<std::string>;
};

TEST_F(SweepPlanTest, AGridHasEveryCombinationUnderAShortName) {
  const SweepPlan found = plan(
      "axes:\n"
      "  optimizer.learning_rate: [1e-3, 0.002]\n"
      "  size: {small: {model.width: 32}, large: {model.width: 64, model.layers: 3}}\n"
      "  run.seed: 7\n"
      "  precision.recipe: [bf16, quartet2]\n");
  EXPECT_EQ(names(found),
            (Names{"lr1e-3_small_bf16", "lr1e-3_small_quartet2", "lr1e-3_large_bf16", "lr1e-3_large_quartet2",
                   "lr0.002_small_bf16", "lr0.002_small_quartet2", "lr0.002_large_bf16", "lr0.002_large_quartet2"}));
  EXPECT_EQ(tasks(found), names(found));
  const SweepRun& run = found.runs[7];
  EXPECT_EQ(run.settings.optimizer.learning_rate, 0.002);
  EXPECT_EQ(run.settings.model.width, 64);
  EXPECT_EQ(run.settings.model.layers, 3);
  EXPECT_EQ(run.settings.run.seed, 7);
  EXPECT_EQ(run.settings.precision.recipe, "quartet2");
  EXPECT_EQ(run.settings.run.directory, "runs/sweep/lr0.002_large_quartet2");
  EXPECT_EQ(run.steps, 100);
  EXPECT_EQ(found.tasks[7].until, 100);
  EXPECT_FALSE(run.twin);
}

TEST_F(SweepPlanTest, RangesAreRoundNumbers) {
  EXPECT_EQ(names(plan("axes: {optimizer.learning_rate: {from: 1e-4, to: 1e-2, count: 3, scale: log}}\n")),
            (Names{"lr0.0001", "lr0.001", "lr0.01"}));
  EXPECT_EQ(names(plan("axes: {model.layers: {from: 1, to: 4, count: 4}}\n")),
            (Names{"layers1", "layers2", "layers3", "layers4"}));
  EXPECT_EQ(names(plan("axes: {schedule.warmup: [5, 10%]}\n")), (Names{"warmup5", "warmup10pct"}));
}

TEST_F(SweepPlanTest, LengthsTakeThePlaceOfTheBases) {
  const SweepPlan tokens = plan("axes: {tokens: [5120, 10k]}\n");
  EXPECT_EQ(tokens.runs[0].steps, 20);
  EXPECT_EQ(tokens.runs[1].steps, 39);
  const SweepPlan ratio = plan("axes: {tokens_per_parameter: [2, 4]}\n");
  EXPECT_EQ(names(ratio), (Names{"tpp2", "tpp4"}));
  // 2 (4 x 32 x 32 + 3 x 32 x 64 + 2 x 32) + 32 without embedding and head.
  EXPECT_EQ(ratio.runs[0].settings.tokens, 2 * 20640);
  EXPECT_EQ(ratio.runs[1].steps, 4 * 20640 / 256);
}

TEST_F(SweepPlanTest, PointsMayBeWrittenOutOrDrawn) {
  EXPECT_EQ(
      names(plan("method: list\nruns: [{optimizer.name: muon, steps: 50}, {optimizer.name: adamw, steps: 100}]\n")),
      (Names{"muon_steps50", "adamw_steps100"}));
  const std::string random =
      "method: random\ncount: 40\naxes:\n"
      "  optimizer.learning_rate: {from: 1e-4, to: 1e-2, scale: log}\n"
      "  optimizer.weight_decay: [0, 0.1]\n";
  const SweepPlan one = plan(random), same = plan(random), other = plan(random + "seed: 2\n");
  EXPECT_EQ(names(one), names(same));
  EXPECT_NE(names(one), names(other));
  EXPECT_EQ(one.runs.size(), 40u);
  double logarithms = 0, decays = 0;
  for (const SweepRun& run : one.runs) {
    EXPECT_GE(run.settings.optimizer.learning_rate, 1e-4);
    EXPECT_LE(run.settings.optimizer.learning_rate, 1e-2);
    logarithms += std::log10(run.settings.optimizer.learning_rate) / 40;
    decays += run.settings.optimizer.weight_decay / 40;
  }
  EXPECT_NEAR(logarithms, -3, 0.3);  // the mean of 40 has a standard deviation of 0.09
  EXPECT_NEAR(decays, 0.05, 0.03);
  // A longer draw begins with the shorter one.
  const SweepPlan longer = plan("method: random\ncount: 50\n" + random.substr(random.find("axes")));
  for (size_t i = 0; i < 40; ++i) EXPECT_EQ(longer.runs[i].name, one.runs[i].name);
}

TEST_F(SweepPlanTest, EveryQuantizedRunHasATwin) {
  const SweepPlan found = plan("twin: bf16\naxes: {precision.recipe: [quartet2, fp8], run.seed: [1, 2]}\n");
  EXPECT_EQ(names(found),
            (Names{"quartet2_seed1", "quartet2_seed2", "fp8_seed1", "fp8_seed2", "bf16_seed1", "bf16_seed2"}));
  for (const size_t run : {0, 2}) EXPECT_EQ(found.runs[run].twin, 4u);
  for (const size_t run : {1, 3}) EXPECT_EQ(found.runs[run].twin, 5u);
  EXPECT_EQ(found.runs[5].role, SweepRun::Role::twin);
  Settings twin = found.runs[1].settings;
  twin.precision = {};
  EXPECT_EQ(without_place(twin), without_place(found.runs[5].settings));
  // One that is on the grid already is not added.
  const SweepPlan there = plan("twin: bf16\naxes: {precision.recipe: [bf16, quartet2]}\n");
  EXPECT_EQ(names(there), (Names{"bf16", "quartet2"}));
  EXPECT_EQ(there.runs[1].twin, 0u);
}

TEST_F(SweepPlanTest, RunsThatDifferInLengthShareATrunk) {
  const SweepPlan found = plan(
      "trunk: true\ntwin: bf16\n"
      "axes: {precision.recipe: [quartet2], steps: [50, 100]}\n");
  EXPECT_EQ(names(found), (Names{"steps50", "steps100", "bf16_steps50", "bf16_steps100", "trunks/run", "trunks/bf16"}));
  EXPECT_EQ(tasks(found), (Names{"trunks+run@40", "trunks+run@80", "trunks+bf16@40", "trunks+bf16@80", "steps50",
                                 "steps100", "bf16_steps50", "bf16_steps100"}));
  const SweepRun &branch = found.runs[1], &trunk = found.runs[4];
  EXPECT_EQ(branch.trunk, 4u);
  EXPECT_EQ(branch.first_step, 80);
  EXPECT_EQ(branch.settings.run.branch, "runs/sweep/trunks/run/checkpoints/step_00000080");
  EXPECT_EQ(branch.settings.schedule.decay, StepsOrShare::share(0.2));
  EXPECT_EQ(trunk.steps, 80);
  EXPECT_EQ(trunk.kept_steps, (std::vector<int64_t>{40, 80}));
  EXPECT_EQ(trunk.settings.schedule.decay, StepsOrShare::steps(0));
  EXPECT_EQ(found.tasks[1].after, 0u);
  EXPECT_EQ(found.tasks[4].after, 0u);
  EXPECT_EQ(found.tasks[5].after, 1u);
  EXPECT_EQ(found.tasks[7].after, 3u);
}

TEST_F(SweepPlanTest, HalvingStopsAtRungs) {
  const SweepPlan found =
      plan("method: halving\nrungs: [10, 50%]\nkeep: 50%\naxes: {optimizer.learning_rate: [1e-3, 2e-3]}\n");
  EXPECT_EQ(tasks(found), (Names{"lr1e-3@10", "lr2e-3@10", "lr1e-3@50", "lr2e-3@50", "lr1e-3@100", "lr2e-3@100"}));
  EXPECT_EQ(found.tasks[5].after, 3u);
  EXPECT_EQ(found.tasks[5].rung, 2u);
}

TEST_F(SweepPlanTest, WrongFilesAreRefusedWithTheirPlace) {
  const auto refused = [&](const std::string& yaml, const std::vector<std::string>& texts) {
    expect_error(ErrorKind::configuration, texts, [&] { plan(yaml); });
  };
  refused("axes: {optimizer.learning_rat: [1e-3]}\n",
          {"unknown setting 'optimizer.learning_rat'", "sweep.yaml:8:8", "did you mean 'optimizer.learning_rate'"});
  refused("axes: {size: {small: {model.widht: 32}}}\n", {"unknown setting 'model.widht'", "model.width"});
  refused("axes: {optimizer.learning_rate: [1e-3, fast]}\n", {"optimizer.learning_rate", "fast", "sweep.yaml:8:"});
  refused("axes: {optimizer.learning_rate: [1e-3, 1e-3]}\n", {"two runs with one name", "lr1e-3"});
  refused("axes: {optimizer.learning_rate: [1e-3, 0.001]}\n", {"two runs with the same settings", "lr0.001"});
  refused("axes: {x: {ledger: {run.seed: 1}, b: {run.seed: 2}}}\n", {"two runs with one name", "ledger"});
  refused("axes: {model.kv_heads: [2, 3]}\n", {"run kv_heads3"});
  refused("axes: {run.seed: [1, 2], x: {a: {run.seed: 3}}}\n", {"two axes set one setting", "run.seed"});
  refused("axes: {optimizer.learning_rate: {from: 1e-3, to: 1e-2}}\n", {"a range without a count"});
  refused("axes: {run.seed: [1]}\nmetod: grid\n", {"'metod' is no word of a sweep", "did you mean 'method'"});
  refused("", {"a sweep without axes"});
  refused("method: random\naxes: {run.seed: [1, 2]}\n", {"random needs count"});
  refused("method: random\ncount: 3\naxes: {run.seed: [1, 2]}\n", {"fewer different points"});
  refused("rungs: [10]\naxes: {run.seed: [1, 2]}\n", {"rungs belongs to another method"});
  refused("method: halving\nrungs: [50, 10]\naxes: {run.seed: [1, 2]}\n", {"rungs must ascend"});
  refused("method: halving\ntwin: bf16\nrungs: [50]\naxes: {run.seed: [1, 2]}\n", {"neither a trunk nor twins"});
  refused("trunk: true\naxes: {steps: [50, 100], schedule.name: [cosine]}\n", {"schedule.name", "wsd"});
  refused("trunk: true\naxes: {steps: [50, 100], schedule.warmup: [10%]}\n", {"schedule.warmup", "10%"});
  refused("axes: {steps: [12]}\ntwin: fp32\n", {"no such twin"});
}

TEST_F(SweepPlanTest, ASyntheticLanguageHasAxesAndNeedsNoFile) {
  const std::filesystem::path path = directory_ / "sweep.yaml";
  write(path,
        "directory: runs/sweep\n"
        "base:\n"
        "  model: {width: 32, layers: 2, heads: 2, ffn: 64}\n"
        "  data: {synthetic: {order: 3}, sequence: 32}\n"
        "  batch: {tokens: 256, micro: 2}\n"
        "axes:\n"
        "  data.synthetic.vocabulary: [128, 256]\n"
        "  data.synthetic.noise: [0, 0.1]\n"
        "  tokens_per_parameter: [20]\n"
        "  precision.recipe: [mxfp8]\n"
        "twin: bf16\n");
  const SweepPlan found = plan_sweep(read_sweep(path.string()));
  ASSERT_EQ(found.runs.size(), 8u) << "four points, four twins";
  EXPECT_EQ(found.runs[0].name, "vocabulary128_noise0");
  EXPECT_EQ(found.runs[0].settings.data.synthetic,
            (SyntheticSettings{.vocabulary = 128, .order = 3, .zipf = 1, .noise = 0, .seed = 1}));
  EXPECT_EQ(found.runs[3].settings.data.synthetic.noise, 0.1);
  EXPECT_NE(sweep_identity(found).find("data.synthetic.vocabulary"), std::string::npos);
}

TEST_F(SweepPlanTest, HalvingComparesLossesOnASyntheticLanguage) {
  const std::filesystem::path path = directory_ / "sweep.yaml";
  write(path,
        "directory: runs/sweep\nmethod: halving\nrungs: [10]\naxes: {run.seed: [1, 2]}\n"
        "base:\n"
        "  model: {width: 32, layers: 2, heads: 2, ffn: 64}\n"
        "  data: {synthetic: {vocabulary: 128}, sequence: 32}\n"
        "  batch: {tokens: 256, micro: 2}\n"
        "  steps: 100\n");
  EXPECT_EQ(plan_sweep(read_sweep(path.string())).tasks.size(), 4u);
}

TEST_F(SweepPlanTest, AnotherSweepIsToldByWhatDiffers) {
  const std::string first = sweep_identity(plan("axes: {run.seed: [1, 2]}\n"));
  require_same_sweep(first, sweep_identity(plan("axes: {run.seed: [1, 2]}\n")), "there");
  expect_error(ErrorKind::configuration,
               {"holds another sweep", "there", "run seed2 is in the ledger alone", "run seed3 is in the file alone"},
               [&] { require_same_sweep(first, sweep_identity(plan("axes: {run.seed: [1, 3]}\n")), "there"); });
  expect_error(ErrorKind::configuration, {"run seed1: optimizer.clip: the default before, 2 now"}, [&] {
    require_same_sweep(first, sweep_identity(plan("axes: {run.seed: [1, 2], optimizer.clip: [2]}\n")), "there");
  });
}

}  // namespace
}  // namespace nibble
