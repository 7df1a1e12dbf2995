// What a run records of its operands: nothing of the run depends on it, and a resumed run's file is that of a whole
// one.
#include "trainer/operand_record.hpp"

#include <nlohmann/json.hpp>

#include "data/tokenize.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/expect_error.hpp"
#include "trainer/metrics_reader.hpp"
#include "trainer/training_run.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class OperandRecordTest : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    std::string text;
    for (int line = 0; line < 400; ++line)
      text += "line " + std::to_string(line * 7919 % 1000) + " of the small text that tests learn\n";
    write(directory_ / "text.txt", text);
    tokenize({.inputs = {path("text.txt")}, .output = path("train.h5")}, *make_byte_tokenizer());
  }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  void train(const std::string& run, const std::vector<std::string>& overrides, bool resume = false) const {
    const std::string yaml = "model: {width: 32, layers: 2, heads: 2, ffn: 64}\ndata: {train: " + path("train.h5") +
                             ", sequence: 32}\nbatch: {tokens: 256, micro: 2, lanes: 2}\nsteps: 6\n"
                             "precision: {recipe: nvfp4-4over6-sr}\noptimizer: {learning_rate: 1e-2}\n"
                             "run: {directory: " +
                             path(run) + ", threads: 2, checkpoint: {every: 3}}\n";
    TrainingRun(parse_settings(yaml, "test.yaml", overrides), {.resume = resume}).run();
  }
  fs::path record(const std::string& run) const { return operand_record_path(directory_ / run); }
  std::string text(const std::string& run) const { return read_file(record(run), ErrorKind::internal); }
  std::vector<nlohmann::ordered_json> rows(const std::string& run) const {
    std::vector<nlohmann::ordered_json> rows;
    read_metrics(record(run), [&](MetricJson&& row) { rows.push_back(std::move(row)); });
    return rows;
  }
  std::vector<double> losses(const std::string& run) const {
    std::vector<double> losses;
    read_metrics(metrics_path(directory_ / run), [&](MetricJson&& row) {
      if (row.contains("loss")) losses.push_back(row["loss"].get<double>());
    });
    return losses;
  }
};

TEST_F(OperandRecordTest, ObservingChangesNoLoss) {
  for (const std::string recompute : {"model.recompute=none", "model.recompute=block"}) {
    fs::remove_all(directory_ / "seen");
    fs::remove_all(directory_ / "unseen");
    train("seen", {recompute, "run.operands.every=2"});
    train("unseen", {recompute});
    EXPECT_EQ(losses("seen").size(), 6u);
    EXPECT_EQ(losses("seen"), losses("unseen"));
    EXPECT_FALSE(fs::exists(record("unseen")));
    const std::vector<nlohmann::ordered_json> seen = rows("seen");
    ASSERT_EQ(seen.size(), 3u * 2 * 4 * 6);  // steps 2, 4, 6; layers; matrices; operands
    EXPECT_EQ(seen.front()["step"], 2);
    EXPECT_EQ(seen.front()["layer"], "layers.0.qkv");
    EXPECT_EQ(seen.back()["step"], 6);
    for (const nlohmann::ordered_json& row : seen) {
      const auto error = row["relative_squared_error"].get<double>();
      EXPECT_GT(error, 0.003) << row;  // of four bits
      EXPECT_LT(error, 0.05) << row;
    }
  }
}

TEST_F(OperandRecordTest, AResumedRunsRecordIsThatOfAWholeOne) {
  train("whole", {"run.operands.every=1"});
  // As after a kill in step 5: rows of a step that will be run again, and a torn one.
  fs::copy(directory_ / "whole", directory_ / "cut", fs::copy_options::recursive);
  fs::remove_all(directory_ / "cut/checkpoints/step_00000006");
  const std::string whole = text("whole");
  write(record("cut"), whole.substr(0, whole.find("{\"step\":5") + 200));
  train("cut", {"run.operands.every=1"}, true);
  EXPECT_EQ(text("cut"), whole);
}

TEST_F(OperandRecordTest, ADamagedRecordIsRefused) {
  write(record(""), "{\"step\":1}\nnonsense\n{\"step\":2}\n");
  expect_error(ErrorKind::checkpoint, {"operands.jsonl:2", "nonsense"}, [&] { OperandRecord(directory_, 1, 3); });
}

TEST_F(OperandRecordTest, ARecordThatIsNoLongerWrittenLosesTheStepsThatAreRunAgain) {
  write(record(""), "{\"step\":1}\n{\"step\":2}\n");
  OperandRecord off(directory_, 0, 2);
  EXPECT_EQ(off.observer(2), nullptr);
  EXPECT_EQ(text(""), "{\"step\":1}\n");
}

}  // namespace
}  // namespace nibble
