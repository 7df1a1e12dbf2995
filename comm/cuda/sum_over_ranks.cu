// Sums of what ranks contributed, in the order of plan_lanes and so to the host's bits: each contribution is read once,
// and the sum is written once.
//
// The tree of the ranks is walked with a stack of partial sums: a contribution is put on it, then as many pairs on top
// are joined as the plan says. Stacks shift, so that their places have fixed numbers and are registers.
#include <algorithm>
#include <bit>
#include <cassert>

#include "comm/cuda/kernels.hpp"
#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda {
namespace {

/// What one thread adds at a time: 16 bytes.
constexpr int pack = 4;

struct Addends {
  const float* of_rank[most_summed];
  uint8_t joins[most_summed];  ///< that follow a rank's contribution
  int ranks;
};

/// Partial sums of at most `depth` subtrees, for `pack` elements.
template <int depth>
struct Stack {
  float sums[depth][pack];

  __device__ void push(const float (&values)[pack]) {
    NIBBLE_UNROLL
    for (int level = depth - 1; level > 0; --level) move(level - 1, level);
    for (int j = 0; j < pack; ++j) sums[0][j] = values[j];
  }
  __device__ void join() {
    for (int j = 0; j < pack; ++j) sums[0][j] = sums[1][j] + sums[0][j];
    NIBBLE_UNROLL
    for (int level = 1; level + 1 < depth; ++level) move(level + 1, level);
  }

 private:
  __device__ void move(int from, int to) {
    for (int j = 0; j < pack; ++j) sums[to][j] = sums[from][j];
  }
};

template <int depth, bool packs>
__global__ void add_contributions(Addends addends, int64_t count, float* sum) {
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * pack;
  if (i >= count) return;
  const auto length = static_cast<int>(count - i < pack ? count - i : pack);
  Stack<depth> stack{};
  for (int rank = 0; rank < addends.ranks; ++rank) {
    const float* const from = addends.of_rank[rank] + i;
    float values[pack];
    if (packs && length == pack) {
      const auto packed = *reinterpret_cast<const Pack<float, pack>*>(from);
      for (int j = 0; j < pack; ++j) values[j] = packed[j];
    } else {
      for (int j = 0; j < pack; ++j) values[j] = j < length ? from[j] : 0.0f;
    }
    stack.push(values);
    for (int joins = addends.joins[rank]; joins > 0; --joins) stack.join();
  }
  if (packs && length == pack) {
    Pack<float, pack> packed;
    for (int j = 0; j < pack; ++j) packed[j] = stack.sums[0][j];
    *reinterpret_cast<Pack<float, pack>*>(sum + i) = packed;
  } else {
    for (int j = 0; j < pack; ++j)
      if (j < length) sum[i + j] = stack.sums[0][j];
  }
}

/// Stacks of so many ranks' trees: a level for each doubling, and one.
constexpr int few_ranks = 8, few_levels = 4, most_levels = 9;
static_assert(few_ranks == 1 << (few_levels - 1) && most_summed == 1 << (most_levels - 1));

template <int depth>
void launch_sum(Queue& queue, const Addends& addends, int64_t count, float* sum) {
  constexpr unsigned threads = 256;
  const auto on_packs = [](const float* memory) {
    return reinterpret_cast<uintptr_t>(memory) % (pack * sizeof(float)) == 0;
  };
  const bool packs = on_packs(sum) && std::all_of(addends.of_rank, addends.of_rank + addends.ranks, on_packs);
  const dim3 blocks{static_cast<unsigned>((count + threads * pack - 1) / (threads * pack))};
  if (packs) launch(queue, blocks, {threads}, 0, add_contributions<depth, true>, addends, count, sum);
  else launch(queue, blocks, {threads}, 0, add_contributions<depth, false>, addends, count, sum);
}

}  // namespace

void sum_over_ranks(Stream& stream, const std::vector<MicroBatchSum>& plan, std::span<const float* const> contributions,
                    int64_t first, int64_t count, float* sum) {
  if (count == 0) return;
  assert(plan.size() == contributions.size() && contributions.size() <= size_t{most_summed});
  assert(slots_of(plan) <= most_levels);
  Addends addends{};
  for (const MicroBatchSum& entry : plan) {
    const auto rank = static_cast<size_t>(entry.micro_batch);
    addends.of_rank[rank] = contributions[rank] + first;
    addends.joins[rank] = static_cast<uint8_t>(entry.joins.size());
    ++addends.ranks;
  }
  if (addends.ranks <= few_ranks) launch_sum<few_levels>(stream.queue(), addends, count, sum);
  else launch_sum<most_levels>(stream.queue(), addends, count, sum);
}

}  // namespace nibble::cuda
