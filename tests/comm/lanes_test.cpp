// The order of sums over micro-batches.
#include "comm/lanes.hpp"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <map>
#include <string>

namespace nibble {
namespace {

/// The plan as the expression that it computes: "((0+1)+2)".
std::string expression(const std::vector<MicroBatchSum>& plan) {
  std::map<int, std::string> slots;
  for (size_t m = 0; m < plan.size(); ++m) {
    std::string& slot = slots[plan[m].slot];
    slot = plan[m].accumulate ? "(" + slot + "+" + std::to_string(m) + ")" : std::to_string(m);
    for (const MicroBatchSum::Join& join : plan[m].joins)
      slots[join.into] = "(" + slots[join.into] + "+" + slots[join.from] + ")";
  }
  return slots[0];
}

TEST(Lanes, AddInOrderWithinALaneAndJoinInATree) {
  EXPECT_EQ(expression(plan_lanes(1, 1)), "0");
  EXPECT_EQ(expression(plan_lanes(3, 1)), "((0+1)+2)");
  EXPECT_EQ(expression(plan_lanes(4, 4)), "((0+1)+(2+3))");
  EXPECT_EQ(expression(plan_lanes(8, 4)), "(((0+1)+(2+3))+((4+5)+(6+7)))");
  EXPECT_EQ(expression(plan_lanes(6, 2)), "(((0+1)+2)+((3+4)+5))");
  EXPECT_EQ(expression(plan_lanes(3, 3)), "(0+(1+2))");
  EXPECT_EQ(expression(plan_lanes(6, 6)), "((0+1)+((2+3)+(4+5)))");
}

TEST(Lanes, OfARankAreASubtree) {
  const auto sum_of_rank = [](int64_t ranks, int64_t lanes, int64_t rank) {
    std::string own = expression(plan_lanes(lanes / ranks, lanes / ranks));
    std::string numbered;
    for (const char c : own)
      numbered += std::isdigit(c) ? std::to_string(c - '0' + rank * lanes / ranks) : std::string(1, c);
    return numbered;
  };
  for (const auto& [ranks, lanes] : {std::pair{2, 8}, {4, 8}, {3, 6}, {6, 6}, {3, 12}, {6, 12}, {5, 10}, {7, 7}}) {
    EXPECT_TRUE(ranks_share_lanes(ranks, lanes));
    const std::string all = expression(plan_lanes(lanes, lanes));
    for (int64_t rank = 0; rank < ranks; ++rank)
      EXPECT_NE(all.find(sum_of_rank(ranks, lanes, rank)), std::string::npos) << all << ", " << ranks << " ranks";
  }
  EXPECT_TRUE(ranks_share_lanes(1, 6));
  EXPECT_FALSE(ranks_share_lanes(2, 6));
  EXPECT_FALSE(ranks_share_lanes(3, 4));
  EXPECT_FALSE(ranks_share_lanes(8, 4));
}

TEST(Lanes, WithoutMicroBatchesAreLeftOut) {
  EXPECT_EQ(expression(plan_lanes(1, 4)), "0");
  EXPECT_EQ(expression(plan_lanes(2, 4)), "(0+1)");
  EXPECT_EQ(expression(plan_lanes(3, 4)), "(0+(1+2))");
}

TEST(Lanes, NeedFewSlots) {
  for (int64_t lanes = 1; lanes <= 32; lanes *= 2)
    for (int64_t micro_batches = 1; micro_batches <= 70; ++micro_batches) {
      const std::vector<MicroBatchSum> plan = plan_lanes(micro_batches, lanes);
      EXPECT_EQ(static_cast<int64_t>(plan.size()), micro_batches);
      EXPECT_LE(slots_of(plan), 1 + static_cast<int>(std::ceil(std::log2(lanes))));
    }
}

}  // namespace
}  // namespace nibble
