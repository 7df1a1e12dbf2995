// What the runs of a sweep have come to: runs.jsonl with all that is known of each, sweep.csv for people, and timing.csv.
//
// The first two depend on the runs' numbers alone: not on who did them when, or how often they were interrupted.
// Not for how far a sweep is (sweep_output.hpp).
#pragma once

#include <span>

#include "trainer/sweep_plan.hpp"
#include "trainer/sweep_state.hpp"

namespace nibble {

/// Replaces the three files in the sweep's directory. `states` are of the tasks; a run that has finished has a line in
/// runs.jsonl, every one but trunks has a row in sweep.csv.
/// Throws Error{checkpoint}: a run's files are damaged; Error{resource}.
void write_sweep_tables(const SweepPlan& plan, std::span<const TaskState> states);

}  // namespace nibble
