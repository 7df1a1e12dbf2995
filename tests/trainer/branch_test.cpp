// Branches: they go on with the trunk's numbers, cool down from its peak, resume, and begin with nothing that does not
// fit.
#include "trainer/branch.hpp"

#include <cmath>
#include <cstring>
#include <utility>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/huggingface.hpp"

namespace nibble {
namespace {

using test::interrupted_in, test::poisoned, test::scripted;

class BranchTest : public test::SmallRunTest {
 protected:
  std::string checkpoint(const std::string& run, int64_t step) const {
    return checkpoint_path(path(run), step).string();
  }
  /// Settings of a branch of the trunk "trunk" at a step.
  Settings branch(const std::string& run, int64_t step, std::vector<std::string> overrides = {}) const {
    overrides.push_back("run.branch=" + checkpoint("trunk", step));
    return settings(run, overrides);
  }
  /// Of the steps after `step`.
  std::vector<std::string> rows_after(const std::string& run, int64_t step) const {
    const std::vector<std::string> all = rows(run);
    return {all.begin() + step + 1, all.end()};  // in front is the row of step 0
  }
  std::vector<double> learning_rates(const std::string& run) const {
    std::ifstream file(path(run) + "/metrics.jsonl");
    std::vector<double> rates;
    for (std::string line; std::getline(file, line);)
      rates.push_back(nlohmann::json::parse(line).value("learning_rate", 0.0));
    return rates;
  }
  void expect_same_weights(const std::string& a, const std::string& b) const {
    const LoadedModel one = load_model(path(a), DType::f32), other = load_model(path(b), DType::f32);
    for (size_t i = 0; i < one.weights.size(); ++i)
      for (int64_t r = 0; r < one.weights[i].rows; ++r)
        ASSERT_EQ(std::memcmp(one.weights[i].row<float>(r), other.weights[i].row<float>(r),
                              static_cast<size_t>(one.weights[i].cols) * sizeof(float)),
                  0)
            << one.layout.parameters()[i].name;
  }
};

TEST_F(BranchTest, WithTheTrunksSettingsGoesOnWithItsNumbers) {
  for (const auto& [recipe, optimizer] :
       {std::pair{"fp32", "sgd"}, std::pair{"fp8-delayed", "adamw"}, std::pair{"lsq-w4a4", "adamw"}}) {
    const std::vector<std::string> overrides = {std::string("precision.recipe=") + recipe,
                                                std::string("optimizer.name=") + optimizer};
    // A refused step, after which updates and steps differ.
    TrainingRun(settings("trunk", overrides), scripted(poisoned(NAN, 0, [](int64_t step) { return step == 2; }))).run();
    for (const int64_t step : {4, 8}) {
      TrainingRun run(branch("branch", step, overrides), {});
      EXPECT_EQ(run.step(), step);
      EXPECT_EQ(run.run(), TrainingRun::Outcome::finished);
      EXPECT_EQ(rows("branch"), rows_after("trunk", step)) << recipe;
      expect_same_weights("branch", "trunk");
      std::filesystem::remove_all(directory_ / "branch");
    }
    std::filesystem::remove_all(directory_ / "trunk");
  }
}

// What WSD is for: each branch is the run that had its length and its decay from the start.
TEST_F(BranchTest, CoolsDownAsARunOfItsOwnWouldHave) {
  const std::vector<std::string> stable = {"schedule.name=wsd", "schedule.warmup=3", "schedule.decay=0",
                                           "schedule.final=0%"};
  TrainingRun(settings("trunk", stable), {}).run();
  for (const auto& [shape, step] : {std::pair<std::string, int64_t>{"sqrt", 8}, {"linear", 4}}) {
    std::vector<std::string> cooled = stable;
    cooled.insert(cooled.end(),
                  {"schedule.decay=4", "schedule.decay_shape=" + shape, "steps=" + std::to_string(step + 4)});
    const std::string own = "own " + shape, branched = "branch " + shape;
    TrainingRun(branch(branched, step, cooled), {}).run();
    TrainingRun(settings(own, cooled), {}).run();
    EXPECT_EQ(rows(branched), rows_after(own, step));
    expect_same_weights(branched, own);
    const std::vector<double> rates = learning_rates(branched);
    ASSERT_EQ(rates.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
      const double done = static_cast<double>(i) / 4;
      EXPECT_DOUBLE_EQ(rates[i], 1e-2 * (1 - (shape == "linear" ? done : std::sqrt(done))));
    }
  }
}

TEST_F(BranchTest, StopsAndResumesLikeAnyRun) {
  TrainingRun(settings("trunk"), {}).run();
  EXPECT_EQ(TrainingRun(branch("branch", 4), scripted(interrupted_in(6))).run(), TrainingRun::Outcome::interrupted);
  std::filesystem::remove_all(directory_ / "trunk/checkpoints/step_00000004");  // nothing needs it any more
  TrainingRun resumed(branch("branch", 4), {.resume = true});
  EXPECT_EQ(resumed.step(), 7);
  resumed.run();
  EXPECT_EQ(rows("branch"), rows_after("trunk", 4));
}

// Killed before it saved anything: rows, and no checkpoint.
TEST_F(BranchTest, BeginsAgainWhereItHasSavedNothing) {
  TrainingRun(settings("trunk"), {}).run();
  TrainingRun(branch("branch", 4), {}).run();
  std::filesystem::remove_all(directory_ / "branch/checkpoints");
  TrainingRun again(branch("branch", 4), {.resume = true});
  EXPECT_EQ(again.step(), 4);
  again.run();
  EXPECT_EQ(rows("branch"), rows_after("trunk", 4));
}

TEST_F(BranchTest, ARunStandsForItsNewestCheckpoint) {
  TrainingRun(settings("trunk"), {}).run();
  std::filesystem::resize_file(directory_ / "trunk/checkpoints/step_00000012/rank_0000.h5", 1000);
  EXPECT_EQ(TrainingRun(settings("branch", {"run.branch=" + path("trunk")}), {}).step(), 8);
}

// With another division of the lanes: a checkpoint is of no number of ranks.
TEST_F(BranchTest, GoesOnWithAnotherNumberOfRanks) {
  const std::vector<std::string> alone = {"run.threads=1", "shard=optimizer"};
  TrainingRun(settings("trunk", alone), {}).run();
  constexpr int ranks = 2;
  const std::vector<std::unique_ptr<Communicator>> links = make_thread_communicators(ranks);
  std::vector<std::unique_ptr<Communicator>> communicators = make_thread_communicators(ranks);
  run_on_threads(links, [&](Communicator& link) {
    const std::unique_ptr<World> world = make_local_world(std::move(communicators[static_cast<size_t>(link.rank())]));
    TrainingRun(branch("branch", 8, alone), {.world = world.get()}).run();
  });
  EXPECT_EQ(rows("branch"), rows_after("trunk", 8));
  expect_same_weights("branch", "trunk");
}

// The trunk's weights and place in the data; the other optimizer's first step is that of a run's first step.
TEST_F(BranchTest, MaySwitchTheOptimizer) {
  TrainingRun(settings("trunk"), {}).run();
  const std::vector<std::string> other = {"optimizer.name=ademamix",  "optimizer.clip=0",
                                          "optimizer.weight_decay=0", "optimizer.ademamix.alpha=0",
                                          "schedule.name=constant",   "schedule.warmup=0"};
  EXPECT_EQ(TrainingRun(branch("branch", 8, other), scripted(interrupted_in(8))).run(),
            TrainingRun::Outcome::interrupted);
  EXPECT_EQ(rows("branch").front(), rows_after("trunk", 8).front());
  // Adam's first step is the learning rate, however large the gradient is.
  const LoadedModel before = load_model(checkpoint("trunk", 8), DType::f32),
                    after = load_model(checkpoint("branch", 9), DType::f32);
  int64_t moved = 0, all = 0;
  for (size_t i = 0; i < before.weights.size(); ++i)
    for (int64_t r = 0; r < before.weights[i].rows; ++r)
      for (int64_t c = 0; c < before.weights[i].cols; ++c) {
        const float change = std::abs(after.weights[i].row<float>(r)[c] - before.weights[i].row<float>(r)[c]);
        EXPECT_LT(change, 1.001e-2f);
        moved += change > 0.9e-2f ? 1 : 0;
        ++all;
      }
  EXPECT_GT(moved, all / 2) << "all but rows of bytes that do not occur";

  // And it resumes as it would have gone on.
  TrainingRun(branch("branch", 8, other), {.resume = true}).run();
  TrainingRun(branch("undisturbed", 8, other), {}).run();
  EXPECT_EQ(rows("branch"), rows("undisturbed"));
  expect_same_weights("branch", "undisturbed");
}

TEST_F(BranchTest, ARunDoesNotSwitchTheOptimizerUnderItsName) {
  TrainingRun(settings("trunk"), {}).run();
  expect_error(ErrorKind::configuration, {"identity", "optimizer.name", "sgd", "run.branch=" + path("trunk")},
               [&] { TrainingRun(settings("trunk", {"optimizer.name=sgd"}), {.resume = true}); });
}

TEST_F(BranchTest, RefusesWhatIsNotTheTrunks) {
  TrainingRun(settings("trunk"), {}).run();
  for (const std::string change : {"run.seed=2", "batch.micro=4", "precision.recipe=fp32", "model.width=64"})
    expect_error(ErrorKind::configuration,
                 {"identity", change.substr(0, change.find('=')), "model.from=" + checkpoint("trunk", 8)},
                 [&] { TrainingRun(branch("branch", 8, {change}), {}); });
  expect_error(ErrorKind::data, {"other training tokens", "pairs.h5"},
               [&] { TrainingRun(branch("branch", 8, {"data.train=" + path("pairs.h5")}), {}); });
  expect_error(ErrorKind::configuration, {"threads", "--retune"},
               [&] { TrainingRun(branch("branch", 8, {"run.threads=1"}), {}); });
  EXPECT_FALSE(std::filesystem::exists(directory_ / "branch")) << "nothing is left of a branch that did not begin";
}

// State that the settings let differ: plain gradient descent has no momentum to take over.
TEST_F(BranchTest, RefusesAnOptimizerOfOtherState) {
  TrainingRun(settings("trunk", {"optimizer.name=sgd"}), {}).run();
  expect_error(ErrorKind::checkpoint, {"no use for", "optimizer/momentum/"}, [&] {
    TrainingRun(branch("branch", 8, {"optimizer.name=sgd", "optimizer.momentum=0"}), {});
  });
}

TEST_F(BranchTest, RefusesWhatIsNoTrunk) {
  expect_error(ErrorKind::checkpoint, {"no such model", "nowhere"},
               [&] { TrainingRun(settings("a", {"run.branch=" + path("nowhere")}), {}); });
  TrainingRun(settings("trunk"), {}).run();
  const LoadedModel model = load_model(path("trunk"), DType::f32);
  export_huggingface(directory_ / "exported", model.config, model.weights, {});
  expect_error(ErrorKind::checkpoint, {"weights alone", "run.branch", "a Hugging Face folder", "model.from"},
               [&] { TrainingRun(settings("a", {"run.branch=" + path("exported")}), {}); });
  expect_error(ErrorKind::configuration, {"already holds checkpoints", "--resume"},
               [&] { TrainingRun(settings("trunk", {"run.branch=" + checkpoint("trunk", 8)}), {}); });
}

TEST_F(BranchTest, RefusesToBeginWhereItHasEnded) {
  TrainingRun(settings("trunk"), {}).run();
  for (const std::string steps : {"7", "8"})
    expect_error(ErrorKind::configuration,
                 {"has ended already", "steps, run.branch", steps + " steps, of which the trunk has done 8",
                  "more than 8", "raise steps"},
                 [&] { TrainingRun(branch("branch", 8, {"steps=" + steps}), {}); });
  EXPECT_EQ(TrainingRun(branch("branch", 8, {"steps=9"}), {}).total_steps(), 9);
}

TEST_F(BranchTest, ADecayThatShouldHaveBegunBeforeItIsAJump) {
  const CheckpointHeader trunk{.step = 400, .total_steps = 1000, .model = {}, .tokenizer = {}, .config_text = {}};
  Settings then;
  then.schedule = {.name = "wsd", .warmup = StepsOrShare::steps(10), .decay = StepsOrShare::steps(0)};
  Settings now = then;
  now.schedule.decay = StepsOrShare::steps(100);
  EXPECT_FALSE(branching_rates(trunk, then, now, 500).jump());
  const BranchingRates late = branching_rates(trunk, then, now, 450);
  EXPECT_TRUE(late.jump()) << "the decay begins at step 350";
  EXPECT_DOUBLE_EQ(late.trunk, 1e-3);
  EXPECT_DOUBLE_EQ(late.branch, 1e-3 * (0.1 + 0.9 * (1 - std::sqrt(0.5))));
}

}  // namespace
}  // namespace nibble
