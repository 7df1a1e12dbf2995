// The gap of quantized runs to their bf16 twins: runs that differ in precision alone, and so saw the same data from the
// same weights.
//
// A pair's gap is free of what the seed does to both; the gaps of several seeds have a mean with an interval.
// Not for a gap to the best of all runs, or fits (nibble fit).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trainer/html.hpp"
#include "trainer/report_run.hpp"

namespace nibble {

/// Pairs that differ in their seed alone.
struct TwinGap {
  std::string precision;           ///< of the quantized runs: "quartet2"
  std::string others;              ///< settings in which this row differs from others: "model.width: 64, steps: 200"
  std::vector<double> gaps;        ///< final validation loss less the twin's, nats per token, by seed
  double mean = 0, twin_loss = 0;  ///< nats per token, over seeds
  /// Half of the interval that holds the mean gap of all seeds with 95% (Student's t); none for one pair.
  std::optional<double> half_interval{};
};

/// Of runs that have a twin among these and a last validation at the same step.
std::vector<TwinGap> twin_gaps(std::span<const ReportRun> runs);

/// The 97.5% quantile of Student's t distribution with that many degrees of freedom, 1 or more; to four digits.
double student_t(size_t degrees);

/// A table; nothing where no run has a twin.
void twin_table(Html& html, std::span<const ReportRun> runs);

}  // namespace nibble
