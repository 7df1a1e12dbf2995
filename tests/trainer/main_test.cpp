// The program from outside: exit codes, messages, help.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "run_program.hpp"
#include "trainer/settings_table.hpp"

namespace nibble {
namespace {

TEST(Main, UnknownCommandsAndOptionsAreAnsweredWithTheNearest) {
  const Ended command = nibble("trian run.yaml");
  EXPECT_EQ(command.code, 2);
  expect_said(command, "did you mean 'train'?");
  const Ended option = nibble("settings --markdwon");
  EXPECT_EQ(option.code, 2);
  expect_said(option, "did you mean '--markdown'?");
  EXPECT_EQ(nibble("").code, 2);
}

TEST(Main, Version) {
  const Ended ended = nibble("--version");
  EXPECT_EQ(ended.code, 0);
  for (const char* name : {"nibble 0", "oneDNN ", "HDF5 ", "fmt ", "zstd ", "SentencePiece ", "yaml-cpp "})
    expect_said(ended, name);
}

TEST(Main, HelpOfTrainHoldsTheSettings) {
  const Ended ended = nibble("train --help");
  EXPECT_EQ(ended.code, 0);
  for (const Setting& setting : settings_table()) expect_said(ended, setting.key + ": ");
}

TEST(Main, SettingsPage) {
  const Ended ended = nibble("settings --markdown");
  EXPECT_EQ(ended.code, 0);
  expect_said(ended, "| `optimizer.learning_rate` | `0.001` |");
}

TEST(Main, ErrorsOfACommandEndWithItsCode) {
  const Ended missing = nibble("train no-such-run.yaml");
  EXPECT_EQ(missing.code, 2);
  expect_said(missing, "no-such-run.yaml");

  const auto file = std::filesystem::path(testing::TempDir()) / "nibble-main-test.yaml";
  std::ofstream(file) << "model: {preset: tiny-byte}\nbatch: {tokens: 4096, micra: 8}\n";
  const Ended misspelt = nibble("train '" + file.string() + "'");
  std::filesystem::remove(file);
  EXPECT_EQ(misspelt.code, 2);
  expect_said(misspelt, "nibble-main-test.yaml:2:23");
  expect_said(misspelt, "did you mean 'batch.micro'?");
}

TEST(Main, BenchStepCountsEveryKernelOfTheStep) {
  const Ended ended = nibble(
      "bench step --json --steps 2 --set model.preset=tiny-byte --set model.vocab=300 --set data.sequence=32 "
      "--set batch.tokens=256 --set batch.micro=4 --set batch.lanes=1");
  ASSERT_EQ(ended.code, 0) << ended.output;
  const nlohmann::json answer = nlohmann::json::parse(ended.output.substr(ended.output.find('{')));
  double operations = 0;
  std::map<std::string, int64_t> calls;
  for (const nlohmann::json& kernel : answer["kernels"]) {
    operations += kernel["operations"].get<double>();
    calls[kernel["kernel"]] = kernel["calls"];
  }
  // Two micro-batches; in each of tiny-byte's four layers (width 128, ffn 384) four matrices three times and
  // attention's products 2 + 5 times over half the square, and the head three times.
  const double matrices = 4 * (4 * 128.0 * 128 + 3 * 128 * 384) + 300 * 128;
  const double attention = 4 * 7 * (32 + 1) * 128.0;
  EXPECT_DOUBLE_EQ(operations, 256 * (6 * matrices + attention));
  EXPECT_EQ(calls["adamw"], 1);
  EXPECT_EQ(calls["attention_backward"], 2 * 4);
  EXPECT_EQ(calls["rms_norm_forward"], 2 * (2 * 4 + 1));
  EXPECT_GT(answer["gemm_peak_tflops"], 0.0);
  EXPECT_GT(answer["memory_peak_bytes"], answer["memory_foreseen_bytes"].get<double>() / 2);
}

TEST(Main, BenchStepWithoutAShapeSaysWhatIsMissing) {
  const Ended ended = nibble("bench step --set model.preset=tiny-byte");
  EXPECT_EQ(ended.code, 2);
  expect_said(ended, "model.vocab");
  const Ended tuned = nibble("bench step '" NIBBLE_TEST_DATA "/../configs/finetune.yaml'");
  EXPECT_EQ(tuned.code, 2);
  expect_said(tuned, "model.from");
}

TEST(Main, PrintConfigReadsBack) {
  const auto file = std::filesystem::path(testing::TempDir()) / "nibble-main-test-resolved.yaml";
  const std::string run = "train '" NIBBLE_TEST_DATA "/../configs/llama-30m.yaml' --print-config --set run.seed=7";
  const Ended first = nibble(run);
  EXPECT_EQ(first.code, 0);
  expect_said(first, "  seed: 7 ");
  std::ofstream(file) << first.output;
  EXPECT_EQ(nibble("train '" + file.string() + "' --print-config").output, first.output);
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace nibble
