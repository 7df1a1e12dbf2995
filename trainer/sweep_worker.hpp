// A process at work on a sweep: takes one free task after the other until all have ended.
//
// Under mpirun the first rank chooses and claims; all ranks train.
// Not for: what a task does (sweep_run.hpp), tables (sweep_output.hpp, sweep_table.hpp).
#pragma once

#include "comm/world.hpp"
#include "trainer/interrupt.hpp"
#include "trainer/sweep_ledger.hpp"
#include "trainer/sweep_plan.hpp"

namespace nibble {

/// Returns when all tasks have ended, or the wish that ended it before: what was under way is then saved and given
/// back. While others have the last tasks it waits, for they may die.
/// All ranks call it. A task that fails is tried once more, then left; with several ranks an error that not all of them
/// meet ends all, and counts.
/// Throws Error: configuration (another process has taken over the run), resource (the disk is full, ...; the run is
/// given back), and what kept the last open tasks from beginning here when nobody else has them.
StopWish work_on(World& world, const SweepPlan& plan, SweepLedger& ledger, bool retune);

}  // namespace nibble
