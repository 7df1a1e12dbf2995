#include "trainer/yaml_settings.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "expect_error.hpp"

namespace nibble {
namespace {

constexpr const char* base = R"(model: {preset: tiny-byte}
data:
  train: train.h5
  sequence: 256
batch: {tokens: 4096, micro: 8}
steps: 100
run: {directory: runs/a}
)";

/// Lines after the base begin at 8.
Settings with(const std::string& lines, const std::vector<std::string>& overrides = {}) {
  return parse_settings(base + lines, "run.yaml", overrides);
}

void expect_refused(const std::string& lines, const std::vector<std::string>& texts) {
  expect_error(ErrorKind::configuration, texts, [&] { with(lines); });
}

void expect_override_refused(const std::string& text, const std::vector<std::string>& texts) {
  expect_error(ErrorKind::configuration, texts, [&] { with("", {text}); });
}

TEST(YamlSettings, NestedFlowAndDottedKeys) {
  const Settings settings = with(R"(
optimizer: {learning_rate: 1.2e-3, no_decay: ['*norm*', lm_head.weight]}
schedule.warmup: 10%
validation:
)");
  EXPECT_EQ(settings.model.preset, "tiny-byte");
  EXPECT_EQ(settings.data.sequence, 256);
  EXPECT_EQ(settings.optimizer.learning_rate, 1.2e-3);
  EXPECT_EQ(settings.optimizer.no_decay, (std::vector<std::string>{"*norm*", "lm_head.weight"}));
  EXPECT_EQ(settings.schedule.warmup, StepsOrShare::share(0.1));
  EXPECT_EQ(settings.validation, ValidationSettings{});
}

TEST(YamlSettings, Units) {
  const Settings settings = parse_settings(R"(
model: {preset: llama-30m}
data: {train: t}
batch: {tokens: 262144, micro: 8}
tokens: 0.75B
schedule: {warmup: 2k, final: 10%}
run: {directory: d, checkpoint: {interval: 30min}}
)",
                                           "run.yaml");
  EXPECT_EQ(settings.tokens, 750000000);
  EXPECT_EQ(settings.schedule.warmup, StepsOrShare::steps(2000));
  EXPECT_EQ(settings.schedule.final, 0.1);
  EXPECT_EQ(settings.run.checkpoint.interval, 1800);
}

TEST(YamlSettings, OverridesInOrder) {
  const Settings settings = with("", {"batch.micro=4", "batch.micro=2", "run.sample=a=b", "model.tied=true",
                                      "optimizer.no_decay=*norm*, x", "schedule.decay=5%"});
  EXPECT_EQ(settings.batch.micro, 2);
  EXPECT_EQ(settings.run.sample, "a=b");
  EXPECT_TRUE(settings.model.tied);
  EXPECT_EQ(settings.optimizer.no_decay, (std::vector<std::string>{"*norm*", "x"}));
  EXPECT_EQ(settings.schedule.decay, StepsOrShare::share(0.05));
  EXPECT_EQ(with("", {"optimizer.no_decay=['*a', \"b\"]"}).optimizer.no_decay, (std::vector<std::string>{"*a", "b"}));
  EXPECT_TRUE(with("", {"optimizer.no_decay=[]"}).optimizer.no_decay.empty());
}

TEST(YamlSettings, UnknownKeysAreAnsweredWithTheNearest) {
  expect_refused("optimizer:\n  learning_rat: 1\n", {"unknown setting 'optimizer.learning_rat'", "run.yaml:9:3",
                                                     "did you mean 'optimizer.learning_rate'?"});
  expect_refused("optimiser: {clip: 1}\n", {"run.yaml:8:1", "did you mean 'optimizer'?"});
  expect_refused("quantum: 1\n", {"unknown setting 'quantum'", "correct or remove it"});
  expect_override_refused("batch.micr=1", {"--set batch.micr=1", "did you mean 'batch.micro'?"});
}

TEST(YamlSettings, WrongTypes) {
  expect_refused("validation: {every: often}\n",
                 {"bad value of validation.every: not a number", "run.yaml:8:21", "often"});
  expect_refused("validation: {every: 1.5}\n", {"not a whole number"});
  expect_refused("validation: {every: [1]}\n", {"a list where one value belongs", "run.yaml:8:21"});
  expect_refused("validation: {every: {a: 1}}\n", {"settings below a setting"});
  expect_refused("validation: {every: }\n", {"no value"});
  expect_refused("model.tied: yes\n", {"not a boolean", "true or false"});
  expect_refused("optimizer: {no_decay: norm}\n", {"one value where a list belongs", "[a, b]"});
  expect_refused("optimizer: {no_decay: [[a]]}\n", {"an entry that is no text"});
  expect_refused("optimizer: {no_decay: ['']}\n", {"an empty entry"});
  const std::string groups = "optimizer: {groups: ";
  expect_refused(groups + "[{name: muon}]}\n", {"a group without parameters", "match: [PATTERN, ...]"});
  expect_refused(groups + "[{match: '*mlp*'}]}\n", {"a group that changes nothing"});
  expect_refused(groups + "[{match: '*mlp*', name: moun}]}\n", {"unknown optimizer", "did you mean 'muon'?"});
  expect_refused(groups + "[{match: '*mlp*', moments: 8-bits}]}\n",
                 {"unknown precision of moments", "did you mean '8-bit'?"});
  expect_refused(groups + "[{match: '*mlp*', learning_rate: 0}]}\n", {"no learning rate", "a number above 0"});
  expect_refused(groups + "[{match: '*mlp*', weight_decay: -1}]}\n", {"a negative decay"});
  expect_refused(groups + "[{match: '*mlp*', momentum: 1}]}\n", {"unknown part", "learning_rate, weight_decay"});
  expect_refused("optimizer: {name: moun}\n", {"optimizer.name: unknown choice; did you mean 'muon'?"});
  expect_refused("optimizer: 3\n", {"'optimizer' is a section", "run.yaml:8:12"});
  expect_refused("optimizer: [3]\n", {"'optimizer' is a section"});
  expect_refused("? [a]\n: 1\n", {"a key that is no text"});
  expect_override_refused("optimizer=adamw", {"'optimizer' is a section"});
  expect_override_refused("validation.every=x", {"not a number", "--set validation.every=x"});
}

TEST(YamlSettings, Ranges) {
  expect_refused("optimizer: {beta1: 1}\n", {"optimizer.beta1: out of range", "at least 0, below 1", "run.yaml:8:20"});
  expect_refused("optimizer: {learning_rate: 0}\n", {"out of range", "above 0"});
  expect_refused("optimizer: {learning_rate: .nan}\n", {"not a number"});
  expect_refused("batch.lanes: 0\n", {"out of range", "at least 1"});
  expect_refused("schedule: {warmup: 110%}\n", {"out of range"});
  expect_refused("schedule: {warmup: -1}\n", {"out of range"});
  expect_refused("schedule: {final: 1.5}\n", {"out of range", "at most 1"});
  expect_refused("run.threads: 2e15\n", {"out of range"});
}

TEST(YamlSettings, TextsThatConfigYamlCannotHold) {
  expect_refused("run.sample: \"caf\xe9\"\n", {"bad value of run.sample: not UTF-8", "run.yaml:8:13"});
  expect_refused("optimizer.no_decay: [a, \"\xff\"]\n", {"optimizer.no_decay: not UTF-8", "run.yaml:8:"});
  expect_refused("data.validation: \"a\\0b\"\n", {"data.validation: a zero byte", "run.yaml:8:18"});
  expect_override_refused("run.directory=\xc3(", {"run.directory: not UTF-8"});
  EXPECT_EQ(with("run.sample: \"caf\xc3\xa9 \\xe9\"\n").run.sample, "caf\xc3\xa9 \xc3\xa9");
}

TEST(YamlSettings, UnitsThatAreNone) {
  expect_refused("validation: {tokens: 3q}\n", {"unknown unit 'q'", "0.75B"});
  expect_refused("run.checkpoint.interval: 30m\n", {"unknown unit 'm'", "30min"});
  expect_refused("schedule: {warmup: 0.1}\n", {"not a whole number", "10%"});
}

TEST(YamlSettings, Choices) {
  expect_refused("schedule: {name: cosin}\n", {"did you mean 'cosine'?", "one of cosine, wsd, onecycle, constant"});
  expect_refused("precision: {recipe: unheard-of}\n", {"unknown recipe", "run.yaml:8:13", "fp32, bf16"});
}

TEST(YamlSettings, RepeatedKeys) {
  expect_refused("run.seed: 1\nrun.seed: 2\n", {"'run.seed' is given twice", "run.yaml:9:1", "first in run.yaml:8:1"});
  expect_refused("data.sequence: 512\n", {"'data.sequence' is given twice", "run.yaml:8:1", "first in run.yaml:4:3"});
}

TEST(YamlSettings, Syntax) {
  expect_refused("optimizer: {clip: 1\n", {"not valid YAML", "run.yaml:"});
  expect_refused("optimizer: {no_decay: [*norm*]}\n", {"not valid YAML", "run.yaml:8:", "quote texts"});
  expect_refused("run.sample: \"open\nvalidation.tokens: 2\n", {"not valid YAML", "close every quote"});
  expect_refused("---\nsteps: 3\n", {"several YAML documents"});
  expect_error(ErrorKind::configuration, {"a.yaml"}, [] {
    parse_settings("\"*norm\", model.emb # 1\nsteps:      2861    j\n", "a.yaml");
  });  // found by fuzzing
  expect_error(ErrorKind::configuration, {"not a configuration"}, [] { parse_settings("just text", "run.yaml"); });
  expect_error(ErrorKind::configuration, {"not a configuration"}, [] { parse_settings("- 1", "run.yaml"); });
  expect_error(ErrorKind::configuration, {"data.train is missing"}, [] { parse_settings("", "run.yaml"); });
}

std::string repeated(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

TEST(YamlSettings, AbsurdDepth) {
  // Far deeper than any stack would bear, in each of the ways in which YAML nests.
  constexpr int levels = 100'000;
  expect_refused("optimizer: {no_decay: " + repeated("[", levels), {"nested too deeply", "run.yaml:8:", "at most 16"});
  expect_refused("a: " + repeated("{a: ", levels / 2), {"nested too deeply", "run.yaml:8:"});
  expect_refused(repeated("- ", levels), {"not valid YAML", "run.yaml:8:"});
  expect_refused("a:\n" + repeated("- ", levels), {"nested too deeply", "run.yaml:9:31"});
  expect_refused("a:\n " + repeated("? ", levels), {"nested too deeply", "run.yaml:9:"});
  std::string steps;
  for (int level = 0; level < 500; ++level) steps += std::string(static_cast<size_t>(level), ' ') + "a:\n";
  expect_refused(steps, {"nested too deeply", "run.yaml:24:17"});
  EXPECT_EQ(with("run: {checkpoint: {every: 5}}\n").run.checkpoint.every, 5);
}

TEST(YamlSettings, AbsurdSize) {
  constexpr int most = 1 << 18;
  expect_refused(repeated("# much ado\n", most / 11), {"too large for a configuration", "run.yaml", "at most 262144"});
  const int room = most - static_cast<int>(std::string(base).size());
  EXPECT_EQ(with(repeated("#", room)).steps, 100);  // to the last byte
  // What fits and is not sensible is refused in time too.
  expect_refused("optimizer: {no_decay: [" + repeated("a,", room / 2 - 20) + "[]]}\n", {"an entry that is no text"});
  expect_refused(repeated("a: 1\n", room / 5), {"unknown setting 'a'", "run.yaml:8:1"});
  expect_refused("run.sample: " + repeated("&", room - 20), {"run.yaml:8:"});
  expect_refused("run.sample: \"" + repeated("\\", (room - 20) / 2 * 2), {"not valid YAML"});
  expect_refused("a: &a [1, 2]\n" + repeated("b: &b [*a, *a, *a, *a]\n", 10'000), {"unknown setting 'a'"});
  expect_refused("model.from: &a [*a]\n", {"model.from"});
}

TEST(YamlSettings, AFileTooLargeForMemoryIsNotRead) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "nibble-absurd.yaml";
  std::ofstream(file) << base;
  std::filesystem::resize_file(file, uint64_t{1} << 42);
  expect_error(ErrorKind::configuration, {"too large for a configuration", "nibble-absurd.yaml", "4398046511104 bytes"},
               [&] { load_settings(file); });
  std::filesystem::remove(file);
}

TEST(YamlSettings, OverridesWithoutAValue) {
  expect_override_refused("batch.micro", {"--set without key=value"});
  expect_override_refused("=3", {"--set without key=value"});
}

TEST(YamlSettings, MissingFile) {
  expect_error(ErrorKind::configuration, {"no-such-run.yaml"}, [] { load_settings("no-such-run.yaml"); });
}

}  // namespace
}  // namespace nibble
