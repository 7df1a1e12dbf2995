// The program from outside: exit codes, messages, help.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
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
