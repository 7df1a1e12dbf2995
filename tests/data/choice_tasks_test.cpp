#include "data/choice_tasks.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "tensor/files.hpp"
#include "tests/data/byte_level_file.hpp"
#include "tests/data/evaluation_file.hpp"

namespace nibble {
namespace {

using nlohmann::json;
using test::evaluation_file;
using Ids = std::vector<int32_t>;
using Numbers = std::vector<uint16_t>;

class ChoiceTasksTest : public TemporaryFolderTest {
 protected:
  ErrorDetail refused(const std::string& contents, int64_t vocabulary = 3264) const {
    const std::string file = write("task", contents);
    return error_of([&] { read_choice_task(file, tokenizer_.get(), vocabulary); });
  }
  const std::unique_ptr<Tokenizer> tokenizer_ = test::make_byte_level(test::byte_level_json());
};

TEST_F(ChoiceTasksTest, JsonLinesAreEncodedAsTheHarnessDoes) {
  const json all = json::parse(read_file(fixture("choice_lines.json"), ErrorKind::data));
  std::string lines;
  for (const json& line : all["lines"]) lines += line.dump() + "\n\n";
  const ChoiceTask task = read_choice_task(write("task.jsonl", lines), tokenizer_.get(), 3264);
  EXPECT_EQ(task.normalized_by, "bytes");
  ASSERT_EQ(task.questions.size(), all["encoded"].size());
  const size_t answers[] = {0, 2, 1, 1, 1};
  for (size_t q = 0; q < task.questions.size(); ++q) {
    const ChoiceQuestion& question = task.questions[q];
    EXPECT_EQ(question.answer, answers[q]);
    ASSERT_EQ(question.choices.size(), all["encoded"][q].size());
    for (size_t c = 0; c < question.choices.size(); ++c) {
      EXPECT_EQ(question.contexts[c], all["encoded"][q][c][0].get<Ids>()) << q << " " << c;
      EXPECT_EQ(question.choices[c].ids, all["encoded"][q][c][1].get<Ids>()) << q << " " << c;
      EXPECT_EQ(question.choices[c].length, all["encoded"][q][c][2].get<double>());
    }
  }
}

TEST_F(ChoiceTasksTest, LlmcFilesAreTakenAsTheyAre) {
  const std::string file =
      write("task.bin", evaluation_file({{{{5, 6}, {7}, {8, 9, 10}}, 1}, {{{1}, {2}, {3}, {4}, {5}}, 0}}));
  const ChoiceTask task = read_choice_task(file, nullptr, 11);
  EXPECT_EQ(task.normalized_by, "tokens");
  ASSERT_EQ(task.questions.size(), 2u);
  EXPECT_EQ(task.questions[0].answer, 1u);
  EXPECT_EQ(task.questions[0].contexts, (std::vector<Ids>{{5, 6}, {5, 6}}));
  EXPECT_EQ(task.questions[0].choices[1].ids, (Ids{8, 9, 10}));
  EXPECT_EQ(task.questions[0].choices[1].length, 3);
  EXPECT_EQ(task.questions[1].choices.size(), 4u);
}

TEST_F(ChoiceTasksTest, DamagedLlmcFilesAreRefused) {
  const std::string whole = evaluation_file({{{{5, 6}, {7}, {8, 9, 10}}, 1}, {{{1}, {2}, {3}}, 0}});
  EXPECT_EQ(refused(whole.substr(0, 4)).what, "the evaluation file is truncated");
  for (size_t length = 1020; length < whole.size(); ++length)
    EXPECT_EQ(refused(whole.substr(0, length)).kind, ErrorKind::data) << length;
  const auto changed = [&](size_t number, uint16_t value) {  // behind the header
    std::string file = whole;
    file[1024 + 2 * number] = static_cast<char>(value & 0xFF);
    file[1024 + 2 * number + 1] = static_cast<char>(value >> 8);
    return refused(file).what;
  };
  EXPECT_EQ(changed(0, 1), "an example of the evaluation file does not begin where it should");
  EXPECT_EQ(changed(1, 2), "an example of the evaluation file has an impossible size");
  EXPECT_EQ(changed(1, 6000), "an example of the evaluation file has an impossible size");
  EXPECT_EQ(changed(1, 26), "an example of the evaluation file ends early");
  EXPECT_EQ(changed(1, 30), "an example of the evaluation file is longer than its counts say");
  EXPECT_EQ(changed(2, 3), "an example of the evaluation file has another number");
  EXPECT_EQ(changed(3, 2), "the right answer is none of the choices");
  EXPECT_EQ(changed(4, 1), "an example of the evaluation file is longer than its counts say");
  EXPECT_EQ(changed(5, 0xFFFF), "an example of the evaluation file ends early");
  EXPECT_EQ(changed(6, 3264), "a token id is outside the model's vocabulary");
  std::string version = whole;
  version[4] = 2;
  EXPECT_EQ(refused(version).what, "the evaluation file has another version");
  std::string count = whole;
  count[8] = 3;
  EXPECT_EQ(refused(count).what, "the evaluation file has another number of examples");
  EXPECT_EQ(refused(evaluation_file({{{{}, {7}, {8}}, 1}})).what,
            "nothing stands before a choice's first token, so nothing tells its probability");
  EXPECT_EQ(refused(evaluation_file({{{{1}, {7}, {}}, 0}})).what, "a choice has no tokens");
  EXPECT_EQ(refused(evaluation_file({{{{1}, {7}}, 0}})).what, "a question has too few choices");
  EXPECT_EQ(refused(evaluation_file({})).what, "the file holds no question");
}

TEST_F(ChoiceTasksTest, WrongLinesAreRefusedWithTheirKey) {
  const auto where = [&](const std::string& line) {
    const ErrorDetail error = refused("{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0}\n" + line);
    EXPECT_EQ(error.kind, ErrorKind::data);
    const size_t at = error.where.find("line 2");
    return at == std::string::npos ? error.where : error.where.substr(at);
  };
  EXPECT_EQ(where(R"({"choices": ["b", "c"], "answer": 0})"), "line 2: \"context\"");
  EXPECT_EQ(where(R"({"context": "a", "answer": 0})"), "line 2: \"choices\"");
  EXPECT_EQ(where(R"({"context": "a", "choices": ["b", "c"]})"), "line 2: \"answer\"");
  EXPECT_EQ(where(R"({"context": 1, "choices": ["b", "c"], "answer": 0})"), "line 2: \"context\"");
  EXPECT_EQ(where(R"({"context": "a", "choices": ["b", 1], "answer": 0})"), "line 2: \"choices\"");
  EXPECT_EQ(where(R"({"context": "a", "choices": ["b", ""], "answer": 0})"), "line 2: \"choices\"");
  EXPECT_EQ(where(R"({"context": "a", "choices": ["b", "c"], "label": "yes"})"), "line 2: \"label\"");
  EXPECT_EQ(where(R"({"context": "a", "choices": ["b", "c"], "answer": -1})"), "line 2: \"answer\"");
  EXPECT_EQ(where(R"({"context": "a", "choices": ["b", "c"], "answer": 2})"), "line 2");
  EXPECT_EQ(where(R"({"context": "a", "choices": ["b"], "answer": 0})"), "line 2");
  EXPECT_EQ(where("text"), "line 2");
  const std::string file = write("task.jsonl", R"({"context": "a", "choices": ["b", "c"], "answer": 0})");
  EXPECT_EQ(error_of([&] { read_choice_task(file, nullptr, 10); }).seen, "JSON lines");
  EXPECT_EQ(refused("\n\n").what, "the file holds no question");
}

}  // namespace
}  // namespace nibble
