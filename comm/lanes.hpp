// The order in which a step's micro-batches are summed: fixed by the batch, not by who computes them.
//
// Contiguous micro-batches add in order within a lane; the lanes, a power of two, join in the binary tree that halves
// them at every level. The lanes of one of 1, 2, 4 ... ranks form a subtree, so the ranks do not change the sums.
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

/// One entry for each micro-batch, in the order in which they run. `lanes` is a power of two; lanes that get no
/// micro-batch (there are fewer of these than lanes) are left out of the tree.
std::vector<MicroBatchSum> plan_lanes(int64_t micro_batches, int64_t lanes);

/// The sum of one value a micro-batch, in the same order.
double sum_in_lanes(std::span<const double> values, int64_t lanes);

/// How many slots a plan uses: at most 1 + log2(lanes), rounded up.
int slots_of(const std::vector<MicroBatchSum>& plan);

}  // namespace nibble
