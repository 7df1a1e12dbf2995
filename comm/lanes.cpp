#include "comm/lanes.hpp"

#include <algorithm>
#include <bit>

namespace nibble {
namespace {

/// Of a tree of so many lanes: half of its full subtrees, or half of the only one.
int64_t lanes_on_the_left(int64_t lanes) {
  const int64_t full = lanes & -lanes;
  return lanes == full ? lanes / 2 : lanes / full / 2 * full;
}

/// Sums the micro-batches of lanes [first, last) into `slot`; false if they have none.
bool plan_subtree(int64_t micro_batches, int64_t lanes, int64_t first, int64_t last, int slot,
                  std::vector<MicroBatchSum>& plan) {
  if (last - first == 1) {
    const int64_t begin = micro_batches * first / lanes, end = micro_batches * last / lanes;
    for (int64_t m = begin; m < end; ++m) plan.push_back({m, slot, m > begin, {}});
    return begin < end;
  }
  const int64_t middle = first + lanes_on_the_left(last - first);
  if (!plan_subtree(micro_batches, lanes, first, middle, slot, plan))
    return plan_subtree(micro_batches, lanes, middle, last, slot, plan);
  if (plan_subtree(micro_batches, lanes, middle, last, slot + 1, plan)) plan.back().joins.push_back({slot + 1, slot});
  return true;
}

}  // namespace

bool ranks_share_lanes(int64_t ranks, int64_t lanes) {
  return ranks == 1 || (lanes % ranks == 0 && std::has_single_bit(static_cast<uint64_t>(lanes / ranks)));
}

std::vector<MicroBatchSum> plan_lanes(int64_t micro_batches, int64_t lanes) {
  std::vector<MicroBatchSum> plan;
  plan_subtree(micro_batches, lanes, 0, lanes, 0, plan);
  return plan;
}

double sum_in_lanes(std::span<const double> values, int64_t lanes) {
  const std::vector<MicroBatchSum> plan = plan_lanes(std::ssize(values), lanes);
  std::vector<double> slots(static_cast<size_t>(slots_of(plan)));
  for (const MicroBatchSum& sum : plan) {
    double& slot = slots[static_cast<size_t>(sum.slot)];
    const double value = values[static_cast<size_t>(sum.micro_batch)];
    slot = sum.accumulate ? slot + value : value;
    for (const MicroBatchSum::Join& join : sum.joins)
      slots[static_cast<size_t>(join.into)] += slots[static_cast<size_t>(join.from)];
  }
  return slots.front();
}

int slots_of(const std::vector<MicroBatchSum>& plan) {
  int slots = 0;
  for (const MicroBatchSum& sum : plan) slots = std::max(slots, sum.slot + 1);
  return slots;
}

}  // namespace nibble
