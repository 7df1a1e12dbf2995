// How far a sweep is, as a table for people and as JSON for programs.
//
// Not for what its runs have come to (sweep_table.hpp).
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "trainer/sweep_ledger.hpp"
#include "trainer/sweep_plan.hpp"
#include "trainer/sweep_state.hpp"

namespace nibble {

struct RunStatus {
  TaskState state = TaskState::free;
  int64_t step = 0;                              ///< done
  std::optional<double> loss{}, seconds_left{};  ///< loss: validation where it has finished, else training
  std::string who{};                             ///< has it, or had it last
  std::string message{};                         ///< of its failure
  bool orphaned = false;                         ///< its process has ended, and nobody has followed
};

struct SweepStatus {
  std::vector<RunStatus> runs;  ///< by run
  size_t workers = 0;           ///< that have a run now
  double steps_done = 0, steps = 0;
  /// From the speed of those that are at work; none while nobody is.
  std::optional<double> seconds_left{};
};

/// Asks the ledger; changes nothing. `seconds` is what each run takes as was foreseen, by run; empty: unknown.
SweepStatus status_of(const SweepPlan& plan, SweepLedger& ledger, const std::vector<double>& seconds);

std::string status_text(const SweepPlan& plan, const SweepStatus& status);
nlohmann::ordered_json status_json(const SweepPlan& plan, const SweepStatus& status);

}  // namespace nibble
