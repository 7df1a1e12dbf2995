#include "comm/partition.hpp"

#include <algorithm>
#include <numeric>

namespace nibble {
namespace {

int64_t blocks_in(int64_t size) { return (size + block_elements - 1) / block_elements; }

/// Whole rows of whole blocks, in blocks.
int64_t unsplit_blocks(const std::vector<int64_t>& row, int tensor) {
  if (row.empty()) return 1;
  return std::lcm(row[static_cast<size_t>(tensor)], block_elements) / block_elements;
}

/// The runs of blocks [first, last) of the bucket's tensors, one behind the other; cuts move to the nearest end of a
/// row.
std::vector<Run> cut(const std::vector<int64_t>& sizes, const std::vector<int64_t>& row, const std::vector<int>& bucket,
                     int64_t first, int64_t last) {
  std::vector<Run> runs;
  int64_t before = 0;  // blocks of the tensors before this one
  for (const int tensor : bucket) {
    const int64_t size = sizes[static_cast<size_t>(tensor)], blocks = blocks_in(size);
    const int64_t whole = unsplit_blocks(row, tensor);
    const auto in_tensor = [&](int64_t block) {
      const int64_t inside = std::clamp<int64_t>(block - before, 0, blocks);
      return inside == blocks ? blocks : std::min((inside + whole / 2) / whole * whole, blocks);
    };
    const int64_t begin = in_tensor(first), end = in_tensor(last);
    if (begin < end) {
      const int64_t element = begin * block_elements;
      runs.push_back({tensor, element, std::min(end * block_elements, size) - element});
    }
    before += blocks;
  }
  return runs;
}

}  // namespace

Partition::Partition(const std::vector<int64_t>& sizes, const std::vector<std::vector<int>>& buckets, int ranks,
                     const std::vector<int64_t>& row)
    : ranks_(ranks), first_block_{0} {
  for (const int64_t size : sizes) first_block_.push_back(first_block_.back() + blocks_in(size));
  for (const std::vector<int>& bucket : buckets) {
    int64_t blocks = 0;
    for (const int tensor : bucket) blocks += blocks_in(sizes[static_cast<size_t>(tensor)]);
    std::vector<std::vector<Run>>& by_rank = runs_.emplace_back();
    for (int64_t rank = 0; rank < ranks; ++rank)
      by_rank.push_back(cut(sizes, row, bucket, blocks * rank / ranks, blocks * (rank + 1) / ranks));
  }
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<Run>& all = by_tensor_.emplace_back(sizes.size());
    for (size_t tensor = 0; tensor < sizes.size(); ++tensor) all[tensor].tensor = static_cast<int>(tensor);
    for (int bucket = 0; bucket < this->buckets(); ++bucket)
      for (const Run& run : runs(bucket, rank)) all[static_cast<size_t>(run.tensor)] = run;
  }
}

std::vector<int64_t> Partition::blocks_of(int rank) const {
  std::vector<int64_t> numbers;
  for (const Run& run : runs(rank)) {
    const int64_t first = first_block_[static_cast<size_t>(run.tensor)] + run.first / block_elements;
    for (int64_t i = 0; i < blocks_in(run.count); ++i) numbers.push_back(first + i);
  }
  return numbers;
}

}  // namespace nibble
