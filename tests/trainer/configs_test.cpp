// Every file in configs/ is a valid configuration.
#include <gtest/gtest.h>

#include <filesystem>

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
  EXPECT_GE(files, 3);
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
