// How a step is shared among the ranks: who owns which run of each parameter, and who computes which micro-batch.
//
// A pure function of the model's layout and the settings. ZeRO's levels (Rajbhandari et al., arXiv 1910.02054): what
// `shard` names, and all that stands before it, each rank keeps only its own part of.
// Not for: the memory of the parts (sharded_weights.hpp, gradient_sum.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/partition.hpp"
#include "model/parameters.hpp"

namespace nibble {

enum class Shard { none, optimizer, gradients, parameters };

class ShardPlan {
 public:
  /// The ranks share the lanes (ranks_share_lanes) and divide the micro-batches. `code_bits`: of buffers that are
  /// gathered as codes if parameters are sharded; ranks then own whole rows of them.
  /// Throws Error{configuration} otherwise.
  ShardPlan(const ParameterLayout& layout, Shard shard, int rank, int ranks, int64_t micro_batches, int64_t lanes,
            CodeBits code_bits = {});

  Shard shard() const { return shard_; }
  int rank() const { return rank_; }
  int ranks() const { return partition_.ranks(); }
  int64_t micro_batches() const { return micro_batches_; }
  int64_t lanes() const { return lanes_; }
  const Partition& partition() const { return partition_; }
  const CodeBits& code_bits() const { return code_bits_; }
  /// Of a buffer; 0: it is gathered as it is.
  int code_bits(int buffer) const { return code_bits_.empty() ? 0 : code_bits_[static_cast<size_t>(buffer)]; }

  /// Micro-batches that each rank computes.
  int64_t turns() const { return micro_batches_ / ranks(); }
  /// Which micro-batch of a step of so many batches `rank` computes in its turn `turn`. Sums are formed in the order of
  /// plan_lanes whoever computes: a rank that keeps whole gradients sums a subtree of lanes, contiguous micro-batches;
  /// where an owner sums what all ranks computed in one turn, these are neighbours.
  int64_t micro_batch(int rank, int64_t turn, int64_t batches = 1) const;

  // Buckets: neighbours in the backward order, within one unit, of at least 4 MiB where the unit has as much.
  int bucket_of(int buffer) const { return bucket_of_[static_cast<size_t>(buffer)]; }
  /// Whether a bucket is complete when this buffer is.
  bool completes_bucket(int buffer) const { return completes_[static_cast<size_t>(buffer)]; }
  /// The buckets of a unit.
  const std::vector<int>& buckets_of_unit(int unit) const { return of_unit_[static_cast<size_t>(unit)]; }

  /// The memory in which each rank's part of a bucket lies.
  Parts parts(int bucket, const ParameterSet& set) const;
  /// That of all buckets of a unit.
  Parts unit_parts(int unit, const ParameterSet& set) const;

 private:
  Shard shard_;
  int rank_;
  int64_t micro_batches_, lanes_;
  std::vector<int> bucket_of_;
  std::vector<bool> completes_;
  std::vector<std::vector<int>> of_unit_;
  CodeBits code_bits_;
  std::vector<int64_t> cols_;  ///< by parameter
  Partition partition_;
};

/// The pieces of memory of elements [first, first + count) of a matrix, row-major: one, or one a row where rows are
/// padded.
void append_pieces(Pieces& pieces, const Tensor& matrix, int64_t first, int64_t count);

}  // namespace nibble
