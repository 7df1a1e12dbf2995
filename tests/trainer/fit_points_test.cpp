// Points of laws from tables and from runs' directories, and what is refused or left out.
#include "trainer/fit_points.hpp"

#include <gtest/gtest.h>

#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

class FitPointsTest : public TemporaryDirectoryTest {
 protected:
  FitPoints table(const std::string& name, const std::string& text) const {
    write(directory_ / name, text);
    FitPoints points;
    read_point_table(directory_ / name, points);
    return points;
  }

  /// Of a model with 2 (4 32^2 + 3 32 64 + 2 32) + 32 = 20640 parameters that are no embedding.
  void make_run(const std::string& name, const std::string& settings, const std::string& rows) const {
    std::filesystem::create_directory(directory_ / name);
    write(directory_ / name / "config.yaml",
          "model: {width: 32, layers: 2, heads: 2, ffn: 64}\n"
          "data: {train: train.h5, validation: validation.h5, sequence: 32}\n"
          "batch: {tokens: 256, micro: 2, lanes: 2}\n"
          "run: {directory: " +
              name + "}\n" + settings);
    write(directory_ / name / "metrics.jsonl", rows);
  }

  FitPoints runs() const { return read_fit_points(std::vector<std::filesystem::path>{directory_}); }

  FitPoint run(const std::string& settings) const {
    make_run("run", "steps: 12\n" + settings, "{\"step\":12,\"tokens\":3072,\"validation_loss\":2.5}\n");
    const FitPoints points = runs();
    EXPECT_EQ(points.points.size(), 1u) << (points.left_out.empty() ? "" : points.left_out[0].why);
    return points.points.at(0);
  }

  std::string reason(const std::string& settings, const std::string& rows) const {
    make_run("run", settings, rows);
    const FitPoints points = runs();
    EXPECT_TRUE(points.points.empty());
    EXPECT_EQ(points.left_out.at(0).run, "run");
    return points.left_out.at(0).why;
  }
};

TEST_F(FitPointsTest, ATableOfCommas) {
  const FitPoints points = table("a.csv",
                                 "# of nobody\n"
                                 "run, parameters, tokens, loss, forward, backward, weight_error, curious\n"
                                 "\"large, \"\"old\"\"\", 30M, 0.75B, 3.25, quest-w4a4,, 0.01, x\n"
                                 "\n"
                                 ",1e6,2e7,4,,,,\n");
  ASSERT_EQ(points.points.size(), 2u);
  const FitPoint& first = points.points[0];
  EXPECT_EQ(first.run, "large, \"old\"");
  EXPECT_EQ(first.parameters, 30e6);
  EXPECT_EQ(first.tokens, 0.75e9);
  EXPECT_EQ(first.loss, 3.25);
  EXPECT_EQ(first.forward, "quest-w4a4");
  EXPECT_EQ(first.backward, "bf16");
  EXPECT_EQ(first.formats, find_recipe("quest-w4a4").forward);
  EXPECT_EQ(first.given.errors[0], 0.01);
  EXPECT_FALSE(first.given.errors[1]);
  EXPECT_EQ(points.points[1].run, "a.csv:5");
  EXPECT_FALSE(points.points[1].quantized_forward());
  EXPECT_EQ(points.other_columns, std::vector<std::string>{"curious"});
}

TEST_F(FitPointsTest, ATableOfJsonLines) {
  const FitPoints points = table("a.jsonl",
                                 "{\"parameters\": 30482560, \"tokens\": \"2B\", \"loss\": 3.1, \"forward\": \"mine\", "
                                 "\"weight_bits\": 4, \"seed\": 1}\n"
                                 "{\"parameters\": 1, \"tokens\": 2, \"loss\": 3, \"backward\": null}\n");
  ASSERT_EQ(points.points.size(), 2u);
  EXPECT_EQ(points.points[0].parameters, 30482560);
  EXPECT_EQ(points.points[0].tokens, 2e9);
  EXPECT_TRUE(points.points[0].quantized_forward());
  EXPECT_FALSE(points.points[0].formats);
  EXPECT_EQ(points.points[0].given.bits[0], 4);
  EXPECT_EQ(points.points[1].backward, "bf16");
  EXPECT_TRUE(points.other_columns.empty());
}

TEST_F(FitPointsTest, TablesThatAreNoTables) {
  const std::string header = "parameters,tokens,loss\n";
  const auto refused = [&](const std::string& text, const std::vector<std::string>& said) {
    expect_error(ErrorKind::data, said, [&] { table("a.csv", text); });
  };
  refused("parameters,token,loss\n1,2,3\n", {"no column 'tokens'", "a.csv:1", "'token'"});
  refused(header + "1,2\n", {"a.csv:2", "2 fields", "3"});
  refused(header + "1,2,nan\n", {"'loss'", "a.csv:2", "nan", "finite", "diverged"});
  refused(header + "1,2,inf\n", {"'loss'", "inf"});
  refused(header + "1,2,\n", {"'loss'", "nothing"});
  refused(header + "1,0,3\n", {"'tokens'", "above zero"});
  refused(header + "-1,2,3\n", {"'parameters'", "-1"});
  refused(header, {"without a run"});
  expect_error(ErrorKind::data, {"a.jsonl:2", "no JSON object"},
               [&] { table("a.jsonl", "{\"parameters\":1,\"tokens\":2,\"loss\":3}\n[1]\n"); });
  expect_error(ErrorKind::data, {"'loss'", "nothing"},
               [&] { table("a.jsonl", "{\"parameters\":1,\"tokens\":2,\"loss\":null}\n"); });
  expect_error(ErrorKind::configuration, {"no-such"},
               [&] { read_fit_points(std::vector<std::filesystem::path>{directory_ / "no-such"}); });
}

TEST_F(FitPointsTest, AFinishedRun) {
  make_run("run", "steps: 12\n",
           "{\"step\":0,\"tokens\":0,\"validation_loss\":5.5}\n{\"step\":11,\"tokens\":2816,\"loss\":3}\n"
           "{\"step\":12,\"tokens\":3072,\"loss\":3,\"validation_loss\":2.5}\n");
  const FitPoints points = runs();
  ASSERT_EQ(points.points.size(), 1u);
  EXPECT_EQ(
      points.points[0],
      (FitPoint{
          .run = "run", .parameters = 20640, .tokens = 3072, .loss = 2.5, .formats = find_recipe("bf16").forward}));
}

TEST_F(FitPointsTest, ALanguagesRunKnowsItsEntropyAndHasNoLuck) {
  make_run("run", "steps: 12\n",
           "{\"step\":6,\"tokens\":1536,\"validation_loss\":3.75,\"validation_gap\":0.5,\"entropy\":3.125}\n"
           "{\"step\":12,\"tokens\":3072,\"validation_loss\":3.5,\"validation_gap\":0.25,\"entropy\":3.125}\n");
  const FitPoints points = runs();
  ASSERT_EQ(points.points.size(), 1u);
  EXPECT_EQ(points.points[0].entropy, 3.125);
  EXPECT_EQ(points.points[0].loss, 3.375) << "the validation's own tokens lose 3.25, not 3.125";
  EXPECT_EQ(run("").entropy, std::nullopt);
}

TEST_F(FitPointsTest, PassesAreNamedByWhatTheyQuantize) {
  const auto passes = [&](const std::string& precision) {
    const FitPoint point = run("precision: {" + precision + "}\n");
    return point.forward + " | " + point.backward;
  };
  EXPECT_EQ(passes("recipe: quartet2"), "quartet2 | quartet2");
  EXPECT_EQ(passes("recipe: quest-w4a4"), "quest-w4a4 | bf16");
  EXPECT_EQ(passes("recipe: mxfp4-rht-sr"), "bf16 | mxfp4-rht-sr");
  EXPECT_EQ(passes("forward: quartet2, backward: bf16"), "quartet2 | bf16");
  EXPECT_EQ(passes("recipe: bf16, backward: quartet"), "bf16 | quartet");
  EXPECT_EQ(passes("recipe: fp32"), "fp32 | fp32");
  EXPECT_EQ(passes("recipe: quest-w4a4, keep_bf16: {last: 1}"), "quest-w4a4, 0+1 blocks kept | bf16");
  EXPECT_FALSE(run("precision: {recipe: quest-w4a4, keep_bf16: {last: 1}}\n").formats);
  const std::string one = passes("recipe: quartet2, overrides: [{layers: 0, recipe: bf16}]");
  const std::string other = passes("recipe: quartet2, overrides: [{layers: 1, recipe: bf16}]");
  EXPECT_TRUE(one.starts_with("quartet2, overrides ")) << one;
  EXPECT_NE(one, other);
}

TEST_F(FitPointsTest, LinesOfASweepAreReadByTheirNames) {
  const std::string line =
      R"({"run_id":"a","from":"","N_nonemb":1000,"D_tokens":3e6,"precision":{"forward":"quartet2","backward":"bf16"},)";
  const FitPoints points =
      table("runs.jsonl", line + R"("final_val_loss_nats":2.5,"entropy":null,"gap_to_entropy":null})" + "\n" + line +
                              R"("final_val_loss_nats":2.51,"entropy":2.0,"gap_to_entropy":0.5})" + "\n" + line +
                              R"("final_val_loss_nats":null})" + "\n" +
                              R"({"run_id":"b","from":"llama","precision":{},"final_val_loss_nats":2})" + "\n");
  ASSERT_EQ(points.points.size(), 2u);
  EXPECT_EQ(points.points[0].run, "a");
  EXPECT_EQ(points.points[0].parameters, 1000);
  EXPECT_EQ(points.points[0].forward, "quartet2");
  EXPECT_EQ(points.points[0].backward, "bf16");
  EXPECT_FALSE(points.points[0].entropy);
  EXPECT_EQ(points.points[1].entropy, 2.0);
  EXPECT_EQ(points.points[1].loss, 2.5);
  EXPECT_EQ(points.left_out, (std::vector<LeftOut>{{"a", "its validation loss at the end is not finite"},
                                                   {"b", "began with the weights of llama"}}));
}

TEST_F(FitPointsTest, RunsThatTellNoLossAreLeftOutWithTheReason) {
  const std::string unfinished = "{\"step\":11,\"tokens\":2816,\"validation_loss\":2.5}\n";
  EXPECT_EQ(reason("steps: 12\n", unfinished), "not finished: step 11 of 12");
  EXPECT_EQ(reason("tokens: 3072\n", unfinished), "not finished: step 11 of 12");
  EXPECT_EQ(reason("steps: 12\n", ""), "no step yet");
  EXPECT_NE(reason("steps: 12\n", "{\"step\":12,\"tokens\":3072,\"loss\":3}\n").find("no validation"),
            std::string::npos);
  EXPECT_NE(reason("steps: 12\n", "{\"step\":12,\"tokens\":3072,\"validation_loss\":null}\n").find("not finite"),
            std::string::npos);
  EXPECT_NE(reason("stops: 12\n", unfinished).find("config.yaml:5:1"), std::string::npos);
}

TEST_F(FitPointsTest, EpochsAreCountedByHowFarTheRowsCame) {
  // An epoch of 1100 tokens: 2 of them make 8 steps of 256.
  const auto rows = [](int step) {
    return "{\"step\":" + std::to_string(step) + ",\"tokens\":" + std::to_string(step * 256) +
           ",\"epoch\":" + std::to_string(step * 256 / 1100.0) + ",\"validation_loss\":3}\n";
  };
  EXPECT_EQ(reason("epochs: 2\n", rows(7)), "not finished: step 7 of 8");
  make_run("run", "epochs: 2\n", rows(8));
  EXPECT_EQ(runs().points.size(), 1u);
}

}  // namespace
}  // namespace nibble
