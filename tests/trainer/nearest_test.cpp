#include "trainer/nearest.hpp"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(Nearest, EditDistance) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("trian", "train"), 1);  // a swap of neighbours
  EXPECT_EQ(edit_distance("abcd", "abd"), 1);
}

TEST(Nearest, FindsTheNearestOrNothing) {
  const std::vector<std::string> words = {"train", "tokenize", "generate"};
  EXPECT_EQ(nearest("trian", words), "train");
  EXPECT_EQ(nearest("tokenise", words), "tokenize");
  EXPECT_EQ(nearest("xylophone", words), "");
  EXPECT_EQ(nearest("train", {}), "");
}

}  // namespace
}  // namespace nibble
