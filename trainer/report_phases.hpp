// Where the time of a step goes: a stacked bar for each run and a table, from whatever columns seconds_* there are.
//
// Not for the speed over the course of a run (report_page.hpp).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "trainer/html.hpp"
#include "trainer/report_run.hpp"

namespace nibble {

/// A phase and its share of a run's time.
struct Phase {
  std::string name;    ///< "forward backward" of seconds_forward_backward
  double seconds = 0;  ///< mean over the run's steps
};

/// The phases of a run's steps in the order of their columns; "other" comes last: what is left of the column seconds.
/// Phases add up to a step and the checkpoint after it.
std::vector<Phase> phases_of(const MetricTable& metrics);

/// Nothing where no run has a phase.
void time_by_phase(Html& html, std::span<const ReportRun> runs);

}  // namespace nibble
