// Runs on a small file, whole and disturbed, and what they leave behind.
#pragma once

#include <csignal>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/tokenize.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/scripted_exchange.hpp"
#include "trainer/training_run.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble::test {

inline TrainingRunOptions scripted(const ScriptedExchange::Script& script) {
  return {.make_exchange = disturbed(script)};
}

/// SIGTERM in the midst of a step.
inline ScriptedExchange::Script interrupted_in(int64_t chosen) {
  return {.on_finish = [=](int64_t step) {
    if (step == chosen) std::raise(SIGTERM);
  }};
}

class SmallRunTest : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    std::string text;
    for (int line = 0; line < 400; ++line)
      text += "line " + std::to_string(line * 7919 % 1000) + " of the small text that tests learn\n";
    write(directory_ / "text.txt", text);
    write(directory_ / "pairs.jsonl",
          "{\"prompt\": \"one and one is \", \"completion\": \"two\"}\n"
          "{\"prompt\": \"two and two is \", \"completion\": \"four\"}\n");
    const std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
    tokenize({.inputs = {(directory_ / "text.txt").string()}, .output = path("train.h5")}, *tokenizer);
    tokenize({.inputs = {(directory_ / "pairs.jsonl").string()}, .output = path("pairs.h5")}, *tokenizer);
  }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  Settings settings(const std::string& run, const std::vector<std::string>& overrides = {}) const {
    const std::string yaml =
        "model: {width: 32, layers: 2, heads: 2, ffn: 64}\n"
        "data: {train: " +
        path("train.h5") + ", validation: " + path("train.h5") +
        ", sequence: 32}\n"
        "batch: {tokens: 256, micro: 2, lanes: 2}\n"
        "steps: 12\n"
        "optimizer: {name: adamw, learning_rate: 1e-2}\n"
        "validation: {every: 6, tokens: 256}\n"
        "run: {directory: " +
        path(run) + ", threads: 2, checkpoint: {every: 4, keep: 9}}\n";
    return parse_settings(yaml, "test.yaml", overrides);
  }

  /// Losses and norms by step, as the text that stands in the file: equal texts are equal numbers.
  std::vector<std::string> rows(const std::string& run) const {
    std::ifstream file(path(run) + "/metrics.jsonl");
    std::vector<std::string> result;
    for (std::string line; std::getline(file, line);) {
      const nlohmann::json row = nlohmann::json::parse(line);
      result.push_back(row["step"].dump() + " " + row.value("loss", nlohmann::json()).dump() + " " +
                       row.value("gradient_norm", nlohmann::json()).dump() + " " +
                       row.value("validation_loss", nlohmann::json()).dump());
    }
    return result;
  }
};

}  // namespace nibble::test
