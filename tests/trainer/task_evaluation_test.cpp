#include "trainer/task_evaluation.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quant/recipe.hpp"
#include "tensor/files.hpp"
#include "tests/data/byte_level_file.hpp"
#include "tests/data/evaluation_file.hpp"
#include "tests/trainer/run_program.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const json& expected() {
  static const json all =
      json::parse(read_file(fs::path(NIBBLE_TEST_DATA) / "trainer/data/choice_scores.json", ErrorKind::data));
  return all;
}

std::string questions_file() {
  std::vector<test::EvaluationExample> examples;
  for (const json& question : expected()["questions"]) {
    test::EvaluationExample example{{question["context"]}, question["answer"].get<uint16_t>()};
    for (const json& choice : question["choices"]) example.lists.push_back(choice);
    examples.push_back(example);
  }
  return test::evaluation_file(examples);
}

class TaskEvaluation : public TemporaryFolderTest {
 protected:
  const fs::path model_ = fs::path(NIBBLE_TEST_DATA) / "model/data/llama/gqa-tied";
  Stream stream_{1};
};

TEST_F(TaskEvaluation, SumsAndAnswersAreThoseOfAnIndependentLlama) {
  const LoadedModel loaded = load_model(model_, DType::f32);
  const ChoiceTask task = read_choice_task(write("task.bin", questions_file()), nullptr, loaded.config.vocabulary);
  for (const int64_t sequences : {1, 4, 64}) {
    int64_t done = 0, all = 0;
    const TaskScores scores = score_task(stream_, loaded.config, find_recipe("fp32"), loaded.weights, task,
                                         {.sequences = sequences, .progress = [&](int64_t now, int64_t of) {
                                            EXPECT_GT(now, done);
                                            done = now, all = of;
                                          }});
    EXPECT_EQ(done, all);
    for (size_t q = 0; q < task.questions.size(); ++q) {
      const auto sums = expected()["questions"][q]["log_probabilities"].get<std::vector<double>>();
      ASSERT_EQ(scores.log_probabilities[q].size(), sums.size());
      for (size_t c = 0; c < sums.size(); ++c)
        EXPECT_NEAR(scores.log_probabilities[q][c], sums[c], 2e-6 * std::abs(sums[c])) << q << " " << c;
    }
    EXPECT_EQ(scores.by_sum.right, expected()["right"].get<int64_t>());
    EXPECT_EQ(scores.by_normalized.right, expected()["right_normalized"].get<int64_t>());
    EXPECT_EQ(scores.by_sum.questions, 25);
    EXPECT_NEAR(scores.by_sum.error(), expected()["acc_stderr"].get<double>(), 1e-10);
  }
}

TEST_F(TaskEvaluation, ChoicesLongerThanTheContextLoseTheirBeginning) {
  const LoadedModel loaded = load_model(model_, DType::f32);
  const ChoiceTask task = read_choice_task(write("task.bin", questions_file()), nullptr, loaded.config.vocabulary);
  const TaskScores scores = score_task(stream_, loaded.config, find_recipe("fp32"), loaded.weights, task, {});
  int64_t longer = 0;
  for (const ChoiceQuestion& question : task.questions)
    for (size_t c = 0; c < question.choices.size(); ++c)
      longer += question.contexts[c].size() + question.choices[c].ids.size() - 1 > 128;
  EXPECT_GT(longer, 2);
  EXPECT_EQ(scores.shortened, longer);
}

TEST_F(TaskEvaluation, TheProgramReportsEachFile) {
  const std::string bin = write("task.bin", questions_file());
  const auto run = [&](const std::string& options) {
    return nibble("eval --model '" + model_.string() + "' --recipe fp32 --threads 1 " + options);
  };
  const Ended ended = run("--json --tasks '" + bin + "' '" + bin + "'");
  ASSERT_EQ(ended.code, 0) << ended.output;
  const json answer = json::parse(ended.output.substr(ended.output.find('{')));
  ASSERT_EQ(answer["tasks"].size(), 2u);
  const json& task = answer["tasks"][1];
  EXPECT_EQ(task["file"], bin);
  EXPECT_EQ(task["questions"], 25);
  EXPECT_EQ(task["acc"], expected()["right"].get<double>() / 25);
  EXPECT_EQ(task["acc_norm"], expected()["right_normalized"].get<double>() / 25);
  EXPECT_NEAR(task["acc_stderr"].get<double>(), expected()["acc_stderr"].get<double>(), 1e-10);
  EXPECT_EQ(task["normalized_by"], "tokens");
  EXPECT_FALSE(answer.contains("loss"));
  EXPECT_NE(run("--tasks '" + bin + "'").output.find("acc_norm       0.4000 +- 0.1000, by tokens"), std::string::npos);

  EXPECT_EQ(run("").code, 2);
  EXPECT_EQ(run("--tasks '" + path("none") + "'").code, 3);
  const Ended lines =
      run("--tasks '" + write("task.jsonl", R"({"context": "a", "choices": ["b", "c"], "answer": 0})") + "'");
  EXPECT_EQ(lines.code, 3);
  EXPECT_NE(lines.output.find("need the model's tokenizer"), std::string::npos) << lines.output;
}

}  // namespace
}  // namespace nibble
