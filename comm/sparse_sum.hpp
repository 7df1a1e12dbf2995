// What SparCML's sums of a bucket have in common, wherever its values lie.
//
// Not for: who selects, and where results are written (sparse_sum.cpp, sparse_sum_on_device.cpp).
#pragma once

#include <optional>
#include <string>

#include "comm/bucket_sums.hpp"

namespace nibble {

class SparseSumBase : public BucketSum {
 public:
  SparseSumBase(const BucketPlace& place, const SparseSumOptions& options);

  std::string description() const final;
  void commit() final {
    if (feedback_) feedback_->commit();
  }
  void discard() final {
    if (feedback_) feedback_->discard();
  }
  void state(StateList& list, const std::string& prefix) final {
    if (feedback_) feedback_->state(list, prefix + "residual", place_.rank, place_.ranks());
  }

 protected:
  /// Whether the sum is formed in a dense vector.
  bool sums_densely() const {
    return place_.goes == SumGoes::to_all && options_.algorithm == SparseAlgorithm::dense_split;
  }
  /// What this rank gets of the sum of all ranks' streams. Messages are the host's.
  SparseStream total(Communicator& hosts, SparseStream mine, int64_t step) const;
  /// The same, written as the vector that it is.
  void write_total(Communicator& hosts, SparseStream mine, int64_t step, std::span<float> result) const;

  BucketPlace place_;
  SparseSumOptions options_;
  std::optional<ErrorFeedback> feedback_;

 private:
  uint64_t label(int64_t step) const {
    return static_cast<uint64_t>(step) << 24 | static_cast<uint64_t>(place_.number);
  }
};

/// Of values in a device's memory: they are selected there, with error feedback there, and summed by the hosts to the
/// bits of theirs. Over PCIe go this rank's entries and back those of the sum, 8 bytes each, or all its values where it
/// became dense.
BucketSumPointer make_sparse_sum_on_device(const BucketPlace& place, const SparseSumOptions& options);

}  // namespace nibble
