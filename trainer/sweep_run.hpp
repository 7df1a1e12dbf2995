// One task of a sweep: a run, or a part of one, from where it stands to the step at which the task ends.
//
// Not for choosing the task (sweep_worker.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "comm/world.hpp"
#include "trainer/sweep_ledger.hpp"
#include "trainer/sweep_plan.hpp"
#include "trainer/training_run.hpp"

namespace nibble {

/// The run began where it cannot (no memory, no data, another processor than that of its checkpoint): elsewhere it may.
struct NotHere {
  Error error;
};

/// All ranks call it; `claim` is the first rank's, null on the others.
/// Throws NotHere for what is wrong with this machine before the first step, Error for what is wrong with the run.
TrainingRun::Outcome run_task(World& world, const SweepPlan& plan, const SweepTask& task, SweepClaim* claim,
                              bool retune);

/// The validation loss that the run's metrics have at that step; none where it has none.
std::optional<double> validation_loss_at(const std::filesystem::path& run, int64_t step);

}  // namespace nibble
