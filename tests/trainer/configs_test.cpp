// Every file in configs/ is a valid configuration.
#include <gtest/gtest.h>

#include <filesystem>

#include "model/llama.hpp"
#include "trainer/precision.hpp"
#include "trainer/resolve.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

const std::filesystem::path configs = std::filesystem::path(NIBBLE_TEST_DATA).parent_path() / "configs";

TEST(Configs, EveryFileIsValid) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(configs)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const Settings settings = load_settings(entry.path());
    if (settings.model.from.empty()) {
      EXPECT_GT(model_config(settings, 259).parameters(), 0) << entry.path();
    }
    EXPECT_GT(resolve_steps(settings, 100000000), 0) << entry.path();
  }
  EXPECT_GE(files, 4);
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

TEST(Configs, TheThirtyMillionRunIsThePapers) {
  const Settings settings = load_settings(configs / "llama-30m.yaml");
  EXPECT_EQ(model_config(settings, 32000).non_embedding_parameters(), 30482560);
  EXPECT_EQ(settings.batch.tokens, 512 * 512);
  EXPECT_EQ(resolve_steps(settings, 0), 2861);
  EXPECT_EQ(settings.optimizer.learning_rate, 1.2e-3);
}

}  // namespace
}  // namespace nibble
