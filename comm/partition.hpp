// Who owns what: every tensor cut into runs of elements, each of which belongs to one rank.
//
// Tensors are grouped into buckets, which are exchanged as one; of each bucket every rank owns about the same number of
// blocks of 4096 elements (ZeRO: Rajbhandari et al., arXiv 1910.02054). Norms and statistics are summed by block, so
// they do not depend on the number of ranks.
// Not for: what lies in the runs (trainer/), how they travel (collectives.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

/// Elements of a block (16 KiB of f32: five streams of it fit a core's L2 cache). Cut within a tensor; only a tensor's
/// last block is smaller.
inline constexpr int64_t block_elements = 4096;

/// Elements [first, first + count) of a tensor, row-major.
struct Run {
  int tensor = 0;
  int64_t first = 0, count = 0;

  bool operator==(const Run&) const = default;
};

class Partition {
 public:
  /// `sizes`: elements by tensor. `buckets`: the tensors of each; every tensor is in one. `row`: by tensor, elements of
  /// a row that no cut may split; 1, or empty for all: any may.
  Partition(const std::vector<int64_t>& sizes, const std::vector<std::vector<int>>& buckets, int ranks,
            const std::vector<int64_t>& row = {});

  int ranks() const { return ranks_; }
  int buckets() const { return static_cast<int>(runs_.size()); }
  /// What `rank` owns of a bucket, at most one run a tensor, in the bucket's order; together one stretch of it.
  std::span<const Run> runs(int bucket, int rank) const {
    return runs_[static_cast<size_t>(bucket)][static_cast<size_t>(rank)];
  }
  /// All that `rank` owns, by tensor; an empty run where it owns nothing.
  const std::vector<Run>& runs(int rank) const { return by_tensor_[static_cast<size_t>(rank)]; }
  /// The numbers of the blocks in `runs(rank)`, in that order; blocks are numbered through all tensors in theirs.
  std::vector<int64_t> blocks_of(int rank) const;
  int64_t blocks() const { return first_block_.back(); }

 private:
  int ranks_;
  std::vector<std::vector<std::vector<Run>>> runs_;  ///< by bucket, by rank
  std::vector<std::vector<Run>> by_tensor_;          ///< by rank, by tensor
  std::vector<int64_t> first_block_;                 ///< by tensor, and the number of all blocks behind the last
};

}  // namespace nibble
