#include "optim/parameter_groups.hpp"

#include <gtest/gtest.h>

#include "optim/adamw.hpp"
#include "optim/sgd.hpp"
#include "tensor/error.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

std::vector<ParameterInfo> parameters_of(bool tied) {
  return ParameterLayout({.vocabulary = 8,
                          .width = 4,
                          .layers = 2,
                          .heads = 2,
                          .kv_heads = 1,
                          .head_dim = 2,
                          .ffn = 6,
                          .tied = tied},
                         true)
      .parameters();
}

void expect_refused(const std::vector<GroupRule>& rules, const std::string& what, const std::string& where,
                    const std::string& seen, bool tied = false) {
  try {
    assign_groups(parameters_of(tied), rules);
    ADD_FAILURE() << "accepted " << seen;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::configuration);
    EXPECT_NE(error.detail().what.find(what), std::string::npos) << error.detail().what;
    EXPECT_EQ(error.detail().where, where);
    EXPECT_EQ(error.detail().seen, seen);
  }
}

TEST(ParameterGroups, EachParameterHasItsRule) {
  const std::vector<ParameterInfo> parameters = parameters_of(false);
  const std::vector<int> groups = assign_groups(
      parameters, std::vector<GroupRule>{{{"*mlp*", "*o_proj.weight"}, true}, {{"lm_head.weight"}, false}});
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = parameters[i].name;
    const bool first = name.find("mlp") != std::string::npos || name.find("o_proj") != std::string::npos;
    EXPECT_EQ(groups[i], first ? 0 : name == "lm_head.weight" ? 1 : -1) << name;
  }
}

// Two patterns of one rule may meet.
TEST(ParameterGroups, WhatOneRuleNamesTwiceIsInItOnce) {
  EXPECT_NO_THROW(assign_groups(parameters_of(false), std::vector<GroupRule>{{{"*mlp*", "*gate_proj*"}, true}}));
}

TEST(ParameterGroups, WhatMakesNoSenseIsRefused) {
  expect_refused({{{}, false}}, "without parameters", "optimizer.groups[0].match", "no pattern");
  expect_refused({{{"*mlp*"}, false}, {{"*mpl*"}, false}}, "matches no parameter", "optimizer.groups[1].match",
                 "*mpl*");
  expect_refused({{{"*mlp*"}, false}, {{"*self_attn*"}, true}, {{"*.1.*down*"}, false}},
                 "two groups have model.layers.1.mlp.down_proj.weight",
                 "optimizer.groups[0].match, optimizer.groups[2].match", "*.1.*down*");
}

TEST(ParameterGroups, OnlyProjectionsAreOrthogonalised) {
  const std::string where = "optimizer.groups[0].match";
  for (const bool tied : {false, true}) expect_refused({{{"*embed*"}, true}}, "an embedding", where, "*embed*", tied);
  expect_refused({{{"lm_head*"}, true}}, "a head", where, "lm_head*");
  expect_refused({{{"model.norm.weight"}, true}}, "a vector", where, "model.norm.weight");
  expect_refused({{{"*quantizer_steps"}, true}}, "a vector", where, "*quantizer_steps");
  expect_refused({{{"*"}, true}}, "model.embed_tokens.weight is an embedding", where, "*");
  EXPECT_NO_THROW(assign_groups(parameters_of(false), std::vector<GroupRule>{{{"*"}, false}}));
}

TEST(GroupedOptimizer, GroupsHaveTheirOwnLearningRates) {
  Stream stream(1);
  const testing::Parameters parameters({{1, 3}, {1, 3}}, DType::f32);
  for (size_t i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j) parameters.gradient(i)[j] = 1;
  std::vector<GroupedOptimizer::Group> groups;
  groups.push_back({std::make_unique<Sgd>(std::vector{parameters.list[0]}, SgdSettings{.momentum = 0}), 1});
  groups.push_back({std::make_unique<AdamW>(std::vector{parameters.list[1]}, AdamWSettings{.epsilon = 1e-20}), 0.25});
  GroupedOptimizer optimizer(std::move(groups));
  optimizer.step(stream, {.step = 1, .learning_rate = 0.5});
  EXPECT_EQ(parameters.master(0)[1], -0.5f);
  EXPECT_NEAR(parameters.master(1)[1], -0.125, 1e-7);
  StateList list;
  optimizer.state(list);
  EXPECT_EQ(list.entries().size(), 2u);  // Adam's
}

}  // namespace
}  // namespace nibble
