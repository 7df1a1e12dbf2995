// Where the tasks of a sweep stand, as its ledger says: what may be done next, and which runs halving has stopped.
//
// It follows from the entries alone, so all processes come to the same.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "trainer/sweep_ledger.hpp"
#include "trainer/sweep_plan.hpp"

namespace nibble {

enum class TaskState {
  waiting,   ///< for another task
  free,      ///< nobody has it
  claimed,   ///< a process has it, or had when it ended
  finished,  ///
  failed,    ///< as often as it is tried, or what it depends on has
  stopped,   ///< by halving
};
const char* name(TaskState state);

/// By task. `entries` are the last ones of their logs.
std::vector<TaskState> task_states(const SweepPlan& plan, std::span<const std::optional<LedgerEntry>> entries,
                                   const SweepLedger& ledger);

inline bool has_ended(TaskState state) { return state >= TaskState::finished; }

/// The task at which a run stands: its first that has not finished, or its last.
std::vector<size_t> current_tasks(const SweepPlan& plan, std::span<const TaskState> states);

}  // namespace nibble
