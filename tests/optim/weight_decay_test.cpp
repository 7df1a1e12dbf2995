#include "optim/weight_decay.hpp"

#include <gtest/gtest.h>

#include "tensor/error.hpp"

namespace nibble {
namespace {

std::vector<ParameterInfo> llama_parameters() {
  std::vector<ParameterInfo> parameters;
  for (const char* name : {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                           "model.layers.0.self_attn.q_proj.weight", "model.layers.0.post_attention_layernorm.weight",
                           "model.layers.0.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"})
    parameters.push_back({.name = name});
  return parameters;
}

TEST(Patterns, MatchWholeNames) {
  EXPECT_TRUE(matches("lm_head.weight", "lm_head.weight"));
  EXPECT_FALSE(matches("lm_head", "lm_head.weight"));
  EXPECT_FALSE(matches("head.weight", "lm_head.weight"));
  EXPECT_TRUE(matches("*", ""));
  EXPECT_TRUE(matches("*", "anything"));
  EXPECT_TRUE(matches("*.weight", "lm_head.weight"));
  EXPECT_TRUE(matches("model.layers.*.down_proj.weight", "model.layers.11.mlp.down_proj.weight"));
  EXPECT_FALSE(matches("model.layers.*.down_proj.weight", "model.layers.11.mlp.down_proj.bias"));
  EXPECT_TRUE(matches("a*b*c", "axxbyyc"));
  EXPECT_TRUE(matches("a*b*c", "abc"));
  EXPECT_TRUE(matches("a*bab", "ababab"));  // the first b is not the one to stop at
  EXPECT_FALSE(matches("a*b*c", "acb"));
  EXPECT_FALSE(matches("", "a"));
}

TEST(Patterns, DistanceCountsEdits) {
  EXPECT_EQ(pattern_distance("kitten", "sitting"), 3);
  EXPECT_EQ(pattern_distance("lm_haed.weight", "lm_head.weight"), 2);
  EXPECT_EQ(pattern_distance("*nrom.weight", "model.norm.weight"), 2);
  EXPECT_EQ(pattern_distance("abc", ""), 3);
}

TEST(WeightDecay, DefaultSparesNormsAndEmbedding) {
  const std::vector<bool> expected = {false, false, true, false, true, false, true};
  EXPECT_EQ(weight_decay_mask(llama_parameters(), default_no_decay), expected);
}

TEST(WeightDecay, NoPatternDecaysEverything) {
  EXPECT_EQ(weight_decay_mask(llama_parameters(), {}), std::vector<bool>(7, true));
}

TEST(WeightDecay, RefusesAPatternThatMatchesNothing) {
  try {
    weight_decay_mask(llama_parameters(), {"*norm.weight", "lm_haed.weight"});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::configuration);
    EXPECT_EQ(error.detail().seen, "lm_haed.weight");
    EXPECT_EQ(error.detail().where, "optimizer.no_decay");
    EXPECT_NE(error.detail().next.find("nearest names: lm_head.weight,"), std::string::npos) << error.detail().next;
  }
}

}  // namespace
}  // namespace nibble
