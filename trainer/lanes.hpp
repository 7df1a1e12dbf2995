// The order in which a step's micro-batches are summed: fixed by the batch, not by who computes them.
//
// Contiguous micro-batches add in order within a lane; lanes join in a binary tree that halves the lanes at every
// level. Ranks will divide the lanes among them, so any number of ranks that divides them gives the same sums.
#pragma once

#include <cstdint>
#include <vector>

namespace nibble {

/// What happens to the gradient of one micro-batch. Slots are gradient-sized memories; slot 0 ends with the sum.
struct MicroBatchSum {
  struct Join {
    int from, into;  ///< slots: into += from
  };

  int slot = 0;             ///< where the gradient goes
  bool accumulate = false;  ///< added to the slot, or the slot's first
  std::vector<Join> joins;  ///< done after it, in order
};

/// One entry for each micro-batch, in the order in which they run. Lanes that get no micro-batch (there are fewer of
/// these than lanes) are left out of the tree.
std::vector<MicroBatchSum> plan_lanes(int64_t micro_batches, int64_t lanes);

/// How many slots a plan uses: at most 1 + log2(lanes), rounded up.
int slots_of(const std::vector<MicroBatchSum>& plan);

}  // namespace nibble
