// How far a sum over ranks is from the exact one, seen on a few elements of each part.
//
// The elements are other ones in every step, the same on all ranks.
#pragma once

#include <vector>

#include "comm/bucket_sum.hpp"

namespace nibble {

struct SquaresOfSum {
  double error = 0, exact = 0;
};

/// Of one bucket.
class SampledError {
 public:
  explicit SampledError(const BucketPlace& place);

  /// Before the sum: takes this rank's values, which lie where the communicator's messages do.
  void take(Communicator& ranks, const Parts& values, int64_t step);
  /// After it: this rank's own part of the sum.
  void take_sum(Communicator& ranks, const Parts& values, int64_t step);
  /// What was taken, by rank, for one reduce_scatter of all buckets.
  Parts parts();
  /// After that: of this rank's own part.
  SquaresOfSum squares() const;

 private:
  int64_t element(int part, int64_t i, int64_t step) const;
  std::span<float> of_part(int part);
  /// Where the part's elements of a step lie; appended.
  void find_part(const Parts& values, int part, int64_t step, std::vector<const float*>& found) const;

  BucketPlace place_;
  std::vector<int64_t> begins_;  ///< by part, and the end
  std::vector<float> values_, sum_;
};

}  // namespace nibble
