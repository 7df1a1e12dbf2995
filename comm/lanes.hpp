// The order in which a step's micro-batches are summed: fixed by the batch, not by who computes them.
//
// Contiguous micro-batches add in order within a lane; the lanes join in a binary tree, whose lower levels double: of
// m 2^j lanes (m odd) it joins m full subtrees of 2^j. The lanes of a rank form such a subtree, or one of its subtrees,
// for one rank and for m, 2 m, 4 m ... of them, so that these numbers of ranks do not change the sums.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

/// What happens to the gradient of one micro-batch. Slots are gradient-sized memories; slot 0 ends with the sum.
struct MicroBatchSum {
  struct Join {
    int from, into;  ///< slots: into += from
  };

  int64_t micro_batch = 0;  ///< its number within the step
  int slot = 0;             ///< where the gradient goes
  bool accumulate = false;  ///< added to the slot, or the slot's first
  std::vector<Join> joins;  ///< done after it, in order
};

/// Whether each of so many ranks has a subtree of the lanes.
bool ranks_share_lanes(int64_t ranks, int64_t lanes);

/// One entry for each micro-batch, in the order in which they run. Lanes that get no
/// micro-batch (there are fewer of these than lanes) are left out of the tree.
std::vector<MicroBatchSum> plan_lanes(int64_t micro_batches, int64_t lanes);

/// The sum of one value a micro-batch, in the same order.
double sum_in_lanes(std::span<const double> values, int64_t lanes);

/// How many slots a plan uses: at most 1 + log2(lanes), rounded up.
int slots_of(const std::vector<MicroBatchSum>& plan);

}  // namespace nibble
