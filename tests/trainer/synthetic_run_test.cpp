// Runs on a synthetic language: the same numbers however they go on, and a gap to what cannot be learned away.
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"
#include "run_program.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/run_data.hpp"

namespace nibble {
namespace {

using test::interrupted_in, test::scripted;

class SyntheticRunTest : public test::SmallRunTest {
 protected:
  Settings synthetic(const std::string& run, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> overrides = {"data.train=", "data.validation=", "data.synthetic.vocabulary=16",
                                          "data.synthetic.order=2", "data.synthetic.noise=0.2"};
    overrides.insert(overrides.end(), more.begin(), more.end());
    return settings(run, overrides);
  }
  std::vector<nlohmann::json> metrics(const std::string& run) const {
    std::ifstream file(path(run) + "/metrics.jsonl");
    std::vector<nlohmann::json> rows;
    for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
    return rows;
  }
};

TEST_F(SyntheticRunTest, IsResumedWithItsNumbers) {
  TrainingRun(synthetic("whole"), {}).run();
  {
    TrainingRun interrupted(synthetic("cut"), scripted(interrupted_in(6)));
    EXPECT_EQ(interrupted.run(), TrainingRun::Outcome::interrupted);
  }
  EXPECT_EQ(TrainingRun(synthetic("cut"), {.resume = true}).run(), TrainingRun::Outcome::finished);
  EXPECT_EQ(rows("cut"), rows("whole"));
  TrainingRun(synthetic("other", {"run.seed=2"}), {}).run();
  EXPECT_NE(rows("other"), rows("whole"));

  TrainingRun(synthetic("branch", {"run.branch=" + path("whole") + "/checkpoints/step_00000004"}), {}).run();
  EXPECT_EQ(rows("branch").back(), rows("whole").back());
}

TEST_F(SyntheticRunTest, IsTheSameOnTwoRanks) {
  TrainingRun(synthetic("one"), {}).run();
  std::vector<std::unique_ptr<Communicator>> communicators = make_thread_communicators(2);
  std::vector<std::thread> ranks;
  for (std::unique_ptr<Communicator>& communicator : communicators)
    ranks.emplace_back([&, mine = std::move(communicator)]() mutable {
      const std::unique_ptr<World> world = make_local_world(std::move(mine));
      TrainingRun(synthetic("two", {"run.threads=1"}), {.world = world.get()}).run();
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(rows("two"), rows("one"));
  EXPECT_EQ(metrics("two").back()["validation_gap"], metrics("one").back()["validation_gap"]);
}

TEST_F(SyntheticRunTest, LearnsBeyondFrequenciesAndNotBeyondTheEntropy) {
  // Long enough for much of what the last token tells: a second.
  const Settings learning = synthetic("a", {"steps=200", "optimizer.learning_rate=2e-2", "validation.tokens=8192",
                                            "validation.every=0", "run.checkpoint.every=0", "run.threads=1"});
  TrainingRun(learning, {}).run();
  const SyntheticLanguage language = synthetic_windows(learning, 32).language();
  const std::vector<nlohmann::json> all = metrics("a");
  const double before = all.front()["validation_loss"], after = all.back()["validation_loss"];
  EXPECT_GT(before, language.frequency_entropy());
  EXPECT_LT(after, language.frequency_entropy());
  EXPECT_FALSE(all.back().contains("epoch"));
  for (const nlohmann::json& row : {all.front(), all.back()}) {
    const double gap = row["validation_gap"], loss = row["validation_loss"];
    EXPECT_GT(gap, 0);
    EXPECT_EQ(row["entropy"], language.entropy());
    // Both are gaps; they differ by the luck of the tokens, of whose losses the deviation is about 0.9.
    EXPECT_NEAR(gap, loss - language.entropy(), 4 * 0.9 / std::sqrt(8192));
  }

  const Ended ended = nibble("eval --model '" + path("a") + "' --tokens 8192 --threads 1 --micro 2 --json");
  ASSERT_EQ(ended.code, 0) << ended.output;
  const nlohmann::json answer = nlohmann::json::parse(ended.output.substr(ended.output.find('{')));
  EXPECT_NEAR(answer["loss"].get<double>(), after, 1e-9);
  EXPECT_NEAR(answer["gap"].get<double>(), all.back()["validation_gap"].get<double>(), 1e-9);
  EXPECT_NEAR(answer["entropy"].get<double>(), language.entropy(), 1e-12);
  const Ended text = nibble("eval --model '" + path("a") + "' --tokens 64 --threads 1 --micro 2");
  for (const char* said : {"data           synthetic language, 64 tokens", "gap            ", "entropy        "})
    expect_said(text, said);
  std::stringstream report;
  report << std::ifstream(path("a") + "/report.html").rdbuf();
  for (const char* said : {"Gap to the language", "entropy of the language", "best gap to the language"})
    EXPECT_NE(report.str().find(said), std::string::npos) << said;
  const Ended documents = nibble("eval --model '" + path("a") + "' --packing documents");
  EXPECT_EQ(documents.code, 2);
  expect_said(documents, "has no documents");
}

TEST_F(SyntheticRunTest, AnotherLanguageIsAnotherRun) {
  TrainingRun(synthetic("a"), {}).run();
  for (const std::string change : {"data.synthetic.seed=2", "data.synthetic.noise=0.3", "data.synthetic.order=3",
                                   "data.synthetic.zipf=0.9", "data.synthetic.vocabulary=17"})
    expect_error(ErrorKind::configuration, {"identity", change.substr(0, change.find('='))},
                 [&] { TrainingRun(synthetic("a", {change}), {.resume = true}); });
  EXPECT_NE(RunData(synthetic("a")).tokenizer().hash,
            RunData(synthetic("a", {"data.synthetic.seed=2"})).tokenizer().hash);
  expect_error(ErrorKind::configuration, {"smaller than the tokenizer's"},
               [&] { TrainingRun(synthetic("b", {"model.vocab=15"}), {}); });
  expect_error(ErrorKind::configuration, {"more tokens than the model", "data.synthetic.vocabulary", "17"}, [&] {
    TrainingRun(synthetic("b", {"data.synthetic.vocabulary=17", "model.from=" + path("a"), "model.width=0",
                                "model.layers=0", "model.heads=0", "model.ffn=0"}),
                {});
  });
}

TEST_F(SyntheticRunTest, AModelOfFilesIsEvaluatedOnAFile) {
  TrainingRun(settings("files", {"steps=1"}), {}).run();
  const Ended no_data = nibble("eval --model '" + path("files") + "' --threads 1");
  EXPECT_EQ(no_data.code, 2);
  expect_said(no_data, "neither --data nor --tasks");
}

}  // namespace
}  // namespace nibble
