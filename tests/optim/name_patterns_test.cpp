#include "optim/name_patterns.hpp"

#include <gtest/gtest.h>

namespace nibble {
namespace {

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

}  // namespace
}  // namespace nibble
