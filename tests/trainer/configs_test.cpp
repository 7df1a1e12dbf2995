// Every file in configs/ is a valid configuration.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "model/llama.hpp"
#include "trainer/precision.hpp"
#include "trainer/resolve.hpp"
#include "trainer/sweep_plan.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

const std::filesystem::path configs = std::filesystem::path(NIBBLE_TEST_DATA).parent_path() / "configs";

TEST(Configs, EveryFileIsValid) {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(configs)) {
    if (entry.path().extension() != ".yaml" || entry.path().filename() == "sweep.yaml") continue;
    ++files;
    const Settings settings = load_settings(entry.path());
    if (settings.model.from.empty()) {
      EXPECT_GT(model_config(settings, 259).parameters(), 0) << entry.path();
    }
    EXPECT_GT(resolve_steps(settings, 100000000), 0) << entry.path();
  }
  EXPECT_GE(files, 4);
}

TEST(Configs, TheSweepHasTwinsAndTrunks) {
  const SweepPlan plan = plan_sweep(read_sweep(configs / "sweep.yaml"));
  std::map<SweepRun::Role, int> runs;
  for (const SweepRun& run : plan.runs) ++runs[run.role];
  EXPECT_EQ(runs[SweepRun::Role::point], 16);
  EXPECT_EQ(runs[SweepRun::Role::twin], 8);
  EXPECT_EQ(runs[SweepRun::Role::trunk], 12);
}

// The example holds what the README says of it, and its recipes fit its model.
TEST(Configs, TheRecipesThatAreWrittenOutFitTheirModel) {
  const Settings settings = load_settings(configs / "recipes.yaml");
  const ModelConfig config = model_config(settings, 259);
  const Precision precision = precision_of(settings, settings.steps, config.layers);
  EXPECT_EQ(precision.phases(0, Projection::qkv).size(), 1u);
  EXPECT_EQ(precision.phases(1, Projection::qkv).back().first_step, 720);
  Stream stream(1);
  for (const Recipe& recipe : settings.precision.recipes) {
    const Llama model(stream, config, recipe, {.sequences = settings.batch.micro, .length = settings.data.sequence});
    EXPECT_TRUE(warnings_of(model.precision()).empty()) << recipe.name;
  }
  const Llama model(stream, config, precision, {.sequences = settings.batch.micro, .length = settings.data.sequence});
  EXPECT_GT(model.activation_bytes(), 0u);
}

// Parameters as the models' pages give them, less the biases of q, k and v.
TEST(Configs, QwensShapesAreTheirs) {
  const auto parameters = [](const std::string& size) {
    return model_config(load_settings(configs / "bench" / ("qwen2.5-" + size + ".yaml")), 0).parameters();
  };
  EXPECT_NEAR(static_cast<double>(parameters("0.5b")), 0.49e9, 0.005e9);
  EXPECT_NEAR(static_cast<double>(parameters("1.5b")), 1.54e9, 0.005e9);
  EXPECT_NEAR(static_cast<double>(parameters("7b")), 7.61e9, 0.01e9);
}

TEST(Configs, TheThirtyMillionRunIsThePapers) {
  const Settings settings = load_settings(configs / "llama-30m.yaml");
  EXPECT_EQ(model_config(settings, 32000).non_embedding_parameters(), 30482560);
  EXPECT_EQ(settings.batch.tokens, 512 * 512);
  EXPECT_EQ(resolve_steps(settings, 0), 2861);
  EXPECT_EQ(settings.optimizer.learning_rate, 1.2e-3);
}

TEST(Configs, ThePublishedRunOfQuartetTwoIsItsRepositorys) {
  const Settings settings = load_settings(configs / "published" / "quartet2-30m.yaml");
  EXPECT_EQ(model_config(settings, 0).non_embedding_parameters(), 30482560);
  EXPECT_EQ(resolve_steps(settings, 0), 3'000'000'000 / (128 * 4 * 512));
}

}  // namespace
}  // namespace nibble
