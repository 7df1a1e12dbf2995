// Which optimizer has which parameter.
#include "trainer/make_optimizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

class MakeOptimizerTest : public testing::Test {
 protected:
  /// Names of the state of the optimizers of a small Llama.
  std::set<std::string> state_of(const OptimizerSettings& settings) const {
    std::vector<OptimizedParameter> parameters;
    for (const ParameterInfo& info : layout_.parameters()) {
      OptimizedParameter& parameter = parameters.emplace_back();
      parameter.info = &info;
      parameter.master = Tensor(DType::f32, nullptr, info.rows, info.cols);
    }
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(settings, 10, 1, parameters, {});
    StateList list;
    optimizer->state(list);
    std::set<std::string> names;
    for (const StateList::Entry& entry : list.entries()) names.insert(entry.name);
    return names;
  }

  ParameterLayout layout_{ModelConfig{
      .vocabulary = 20, .width = 16, .layers = 1, .heads = 2, .kv_heads = 2, .head_dim = 8, .ffn = 32, .context = 8}};
};

const std::string down = "model.layers.0.mlp.down_proj.weight", embedding = "model.embed_tokens.weight";

TEST_F(MakeOptimizerTest, MatrixOptimizersLeaveTheRestToAdam) {
  for (const char* name : {"muon", "normuon", "mars-m", "shampoo", "soap"}) {
    const std::set<std::string> state = state_of({.name = name});
    EXPECT_TRUE(state.contains("optimizer/momentum/" + down) || state.contains("optimizer/left_factor/" + down))
        << name;
    for (const std::string& rest : {embedding, std::string("lm_head.weight"), std::string("model.norm.weight")})
      EXPECT_TRUE(state.contains("optimizer/second_moment/" + rest)) << name;
  }
}

// Where a group says nothing of the optimizer, it is the one that its members would have without the group.
TEST_F(MakeOptimizerTest, GroupsWithoutAName) {
  const std::set<std::string> state =
      state_of({.name = "muon", .groups = {{.match = {embedding, down}, .learning_rate = 1e-4}}});
  EXPECT_TRUE(state.contains("optimizer/momentum/" + down));
  EXPECT_TRUE(state.contains("optimizer/first_moment/" + embedding));
  EXPECT_TRUE(state.contains("optimizer/first_moment/lm_head.weight"));
}

TEST_F(MakeOptimizerTest, GroupsWithAName) {
  const OptimizerSettings settings{.name = "adamw", .groups = {{.match = {"*mlp*"}, .name = "muon"}}};
  const std::set<std::string> state = state_of(settings);
  EXPECT_TRUE(state.contains("optimizer/momentum/" + down));
  EXPECT_TRUE(state.contains("optimizer/first_moment/model.layers.0.self_attn.o_proj.weight"));
  EXPECT_EQ(whole_matrices(settings, layout_.parameters()).size(), 3u);
  expect_error(ErrorKind::configuration, {"embedding", "optimizer.groups[0].match", embedding},
               [&] { state_of({.name = "adamw", .groups = {{.match = {embedding}, .name = "muon"}}}); });
}

TEST_F(MakeOptimizerTest, ShampooAndSoapKeepF32) {
  for (const char* name : {"shampoo", "soap"})
    for (const char* moments : {"bf16", "8-bit"})
      expect_error(ErrorKind::configuration, {name, "optimizer.moments", moments},
                   [&] { state_of({.name = name, .moments = moments}); });
}

}  // namespace
}  // namespace nibble
