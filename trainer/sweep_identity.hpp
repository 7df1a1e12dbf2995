// What a sweep is, as its ledger's first process writes it down, so that later ones work on the same.
//
// Not for the settings of a single run (settings_output.hpp).
#pragma once

#include <string>

#include "trainer/sweep_plan.hpp"

namespace nibble {

/// All runs with the settings that are not the defaults, as JSON. What may differ from process to process (threads,
/// progress, how often checkpoints are written, where the folder lies) is left out.
std::string sweep_identity(const SweepPlan& plan);

/// Throws Error{configuration} unless both are the same: which runs are only in one, and in which settings a run
/// differs. `where` is the sweep's directory.
void require_same_sweep(const std::string& before, const std::string& now, const std::string& where);

}  // namespace nibble
