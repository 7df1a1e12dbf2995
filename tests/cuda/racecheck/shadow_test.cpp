// Which accesses have no order, beside a list of all that there were.
#include "tensor/cuda/racecheck/shadow.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace nibble::cuda::racecheck {
namespace {

struct Past {
  Access access;
  uintptr_t begin, end;
  bool writes;
};

/// Whether the access has an order with all of the past's.
bool has_order(const std::vector<Past>& past, const Past& now) {
  return std::none_of(past.begin(), past.end(), [&](const Past& before) {
    return before.begin < now.end && now.begin < before.end && (before.writes || now.writes) &&
           unordered(before.access, now.access);
  });
}

/// Blocks run one after the other, their threads between two barriers in any order, as the emulation has it.
TEST(Shadow, FindsWhatAListOfAllAccessesFinds) {
  std::mt19937 drawn(1);
  const auto below = [&](unsigned n) { return static_cast<unsigned>(drawn() % n); };
  int with_order = 0, without = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    Shadow shadow;
    shadow.begin();
    std::vector<Past> past;
    uint32_t code = 0;
    const unsigned one_writes_of = 1 + below(12), one_is_plain_of = 1 + below(4), phases = 1 + below(3);
    bool found = false;
    for (uint32_t block = 0; block < 1 + trial % 3u && !found; ++block)
      for (uint16_t phase = 0, waits[2]{}; phase < phases && !found; ++phase)
        for (unsigned i = below(8); i > 0 && !found; --i) {
          const unsigned bytes = 1u << below(4);
          const uintptr_t begin = 4096 - 8 + bytes * below(16 / bytes);
          const unsigned warp = below(2), lane = below(2);
          waits[warp] += below(3) == 0;
          const bool writes = below(one_writes_of) == 0, atomic = writes && below(one_is_plain_of) != 0;
          const Access access{.block = block,
                              .thread = static_cast<uint16_t>(32 * warp + lane),
                              .phase = phase,
                              .warp_phase = waits[warp],
                              .atomic = atomic,
                              .code = ++code};
          const Past now{access, begin, begin + bytes, writes};
          const bool expected = has_order(past, now);
          found = shadow.add(begin, bytes, now.access, now.writes).before.is();
          ASSERT_EQ(found, !expected) << "trial " << trial << ", access " << code;
          past.push_back(now);
        }
    ++(found ? without : with_order);
  }
  EXPECT_GT(with_order, 500);
  EXPECT_GT(without, 500);
}

/// What an access of its own thread's hides from those of others.
TEST(Shadow, FindsPlainAccessesBesideAtomicOnes) {
  constexpr bool reads = false, writes = true;
  struct Step {
    uint16_t thread;
    bool atomic, writes;
  };
  const auto found = [](const std::vector<Step>& steps) {
    Shadow shadow;
    shadow.begin();
    uint32_t code = 0;
    for (const auto& [thread, atomic, does_write] : steps) {
      const Access now{.thread = thread, .atomic = atomic, .code = ++code};
      if (const Access before = shadow.add(64, 4, now, does_write).before; before.is()) return before.code;
    }
    return uint32_t{0};
  };
  constexpr Step set{0, false, writes}, read{0, false, reads}, added{0, true, writes}, added_by_other{1, true, writes},
      read_by_other{1, false, reads};
  EXPECT_EQ(found({set, added, added_by_other}), 1u);
  EXPECT_EQ(found({read, added, added_by_other}), 1u);
  EXPECT_EQ(found({added, added_by_other, read_by_other}), 1u);
  EXPECT_EQ(found({added, added_by_other, added}), 0u);
}

TEST(Shadow, ForgetsAndSaysWhatWasNeverWritten) {
  Shadow shadow;
  const Access first{.block = 0, .thread = 1, .phase = 0, .code = 1},
      second{.block = 1, .thread = 2, .phase = 0, .code = 2};
  shadow.begin();
  EXPECT_TRUE(shadow.add(100, 4, first, false).unwritten);
  EXPECT_FALSE(shadow.add(101, 1, first, true).unwritten);
  const Shadow::Seen seen = shadow.add(100, 2, first, false);
  EXPECT_TRUE(seen.unwritten);
  EXPECT_EQ(seen.address, 100u);
  EXPECT_FALSE(shadow.add(101, 1, first, false).unwritten);
  const Shadow::Seen other = shadow.add(100, 4, second, false);
  EXPECT_EQ(other.before.thread, 1);
  EXPECT_EQ(other.before.code, 1u);
  shadow.begin();
  EXPECT_FALSE(shadow.add(100, 4, second, true).before.is());
}

}  // namespace
}  // namespace nibble::cuda::racecheck
