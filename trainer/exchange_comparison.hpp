// What ways of summing a vector over ranks cost, one beside the other in one run: time, bytes, error.
//
// Not for: training with them (trainer/gradient_exchange.hpp), the text of the answer (command_allreduce.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/bucket_exchange.hpp"
#include "comm/exchange_cost.hpp"

namespace nibble {

/// A way of summing, by the name that users give it: "dense", "dense-bf16", "top-0.78%" (the way that is fastest by the
/// cost model, be it dense), "top-0.78%-split", "top-0.78%-recursive-doubling", "top-0.78%-CODEC" (dense sums in its
/// codes), CODEC.
struct ComparedSum {
  std::string name;
  MakeBucketSum make;
  std::optional<SparseSumOptions> sparse{};  ///< of one of these
  bool chosen = false;                       ///< the name leaves the way open
};

/// Throws Error{configuration} for a name that is none. `elements`: of the vector, for the choice of the way.
ComparedSum compared_sum(const std::string& name, int ranks, int64_t elements, const LinkCost& link);

struct SumMeasurement {
  std::string name, way;
  double seconds = 0;               ///< from the vector in memory to its sum in memory: median of the slowest rank's
  double seconds_from_streams = 0;  ///< of sparse sums: what of that begins with ready streams; else 0
  double processor_seconds = 0;     ///< of the thread that sums, on the busiest rank
  double bytes = 0;                 ///< that the rank sends which sends most
  double error = 0;                 ///< |sum - exact sum| / |exact sum|
};

struct ComparisonOptions {
  int64_t elements = int64_t{1} << 24;
  int repeats = 5;
  /// Of the variance of an element, what all ranks share.
  double correlation = 0;
  /// This rank's vector; if it is empty, cubes of normal numbers, so that few elements carry most, as in gradients.
  std::vector<float> gradient{};
};

/// Each repetition takes all sums in turn, after one that counts nothing; on ranks with devices, of vectors in these.
/// `sparse` sums are hosts'. All ranks call it and get the same.
std::vector<SumMeasurement> compare_sums(Communicator& ranks, const std::vector<ComparedSum>& sums,
                                         const ComparisonOptions& options);

/// `link` with what each way of a sum, of which all but the way is known, takes on these ranks, or their devices,
/// against the model. All ranks call it and get the same.
LinkCost with_computing(Communicator& ranks, const SparseSumOptions& sum, const LinkCost& link);

/// The rate of a link in bytes a second at which a sum takes as long as the other; above it, the one that sends more is
/// faster. Nothing if it never is.
std::optional<double> break_even_rate(const SumMeasurement& sum, const SumMeasurement& other);

}  // namespace nibble
