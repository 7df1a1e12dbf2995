#include "trainer/presets.hpp"

#include <gtest/gtest.h>

#include <map>

#include "trainer/resolve.hpp"

namespace nibble {
namespace {

ModelConfig shape_of(std::string_view preset, int64_t tokenizer_vocabulary) {
  Settings settings;
  settings.model.preset = preset;
  return model_config(settings, tokenizer_vocabulary);
}

TEST(Presets, PapersShapesHaveThePapersSizes) {
  // The published counts without embedding and head.
  const std::map<std::string, int64_t> sizes = {{"llama-30m", 30482560},   {"llama-50m", 49556736},
                                                {"llama-100m", 102777856}, {"llama-200m", 203188480},
                                                {"llama-430m", 443068288}, {"llama-800m", 822151168}};
  for (const auto& [name, size] : sizes) EXPECT_EQ(shape_of(name, 32000).non_embedding_parameters(), size) << name;
  EXPECT_EQ(shape_of("llama-7b", 32000).parameters(), 6738415616);  // Llama 2 7B
}

TEST(Presets, PapersShapesFollowTheirRules) {
  for (const Preset& preset : presets()) {
    EXPECT_EQ(preset.heads * preset.head_dim, preset.width) << preset.name;
    if (preset.vocabulary == 0) continue;
    EXPECT_EQ(preset.head_dim, 128) << preset.name;
    EXPECT_EQ(preset.ffn, llama_ffn(preset.width)) << preset.name;
    EXPECT_EQ(preset.vocabulary, 32000) << preset.name;
  }
}

TEST(Presets, ByteLevelShapesTakeTheTokenizersVocabulary) {
  const ModelConfig tiny = shape_of("tiny-byte", 259);
  EXPECT_EQ(tiny.vocabulary, 259);
  EXPECT_GT(tiny.parameters(), 700000);
  EXPECT_LT(tiny.parameters(), 1000000);
  const ModelConfig small = shape_of("llama-2.5m", 259);
  EXPECT_GT(small.parameters(), 2000000);
  EXPECT_LT(small.parameters(), 3000000);
}

TEST(Presets, FfnOfLlama) {
  // Widths of QuEST and Quartet, and Llama 2 7B.
  const std::map<int64_t, int64_t> widths = {{640, 1792},  {768, 2048},  {1024, 2816}, {1280, 3584},
                                             {1664, 4608}, {2048, 5632}, {4096, 11008}};
  for (const auto& [width, ffn] : widths) EXPECT_EQ(llama_ffn(width), ffn);
}

TEST(Presets, UnknownNames) { EXPECT_EQ(find_preset("none"), nullptr); }

}  // namespace
}  // namespace nibble
