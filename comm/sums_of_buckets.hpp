// What one rank does in an exchange that is a sum for each bucket.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "comm/bucket_exchange.hpp"
#include "comm/sampled_error.hpp"

namespace nibble {

class SumsOfBuckets {
 public:
  SumsOfBuckets(const std::vector<BucketPlace>& places, const MakeBucketSum& make_sum);

  std::string description() const;
  bool compares_points() const;
  int64_t batches(int64_t step) const;
  int64_t most_batches() const;
  int evaluations(int64_t step) const;
  void keep(Communicator& ranks, int evaluation, int bucket, const Parts& gradient);
  /// In place; all ranks call it with the same.
  void sum(Communicator& ranks, int bucket, const Parts& gradient, int64_t step);
  /// Of the step whose buckets have been summed. All ranks call it.
  ExchangeReport report(Communicator& ranks);

  void commit();
  void discard();
  void state(StateList& list, const std::string& prefix);

 private:
  template <class Of>
  int64_t most_of(Of&& of) const {
    int64_t most = 1;
    for (const BucketSumPointer& sum : sums_) most = std::max<int64_t>(most, std::invoke(of, *sum));
    return most;
  }

  std::vector<BucketSumPointer> sums_;
  std::vector<SampledError> samples_;
};

}  // namespace nibble
