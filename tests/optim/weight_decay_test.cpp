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
