// A branch: a run that begins with the state of another one, its trunk, and has a length and a schedule of its own.
//
// Masters, optimizer, exchange, counters and the place in the data are the trunk's, and steps are counted from the
// trunk's first one: a trunk at the peak of a WSD schedule gives one model for each length at the price of its decay
// (Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations", arXiv 2405.18392).
// Not for: a new run from a model's weights alone (model.from), or the same run once more (--resume).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "trainer/run_directory.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// The checkpoint at which a branch begins; a run's directory stands for its newest valid one.
/// Throws Error{checkpoint} as find_model does, and for a Hugging Face folder, which holds weights alone.
ModelSource find_trunk(const std::filesystem::path& named);

/// Throws Error{configuration} unless a branch of `steps` steps, the trunk's included, has some of its own.
void require_own_steps(const CheckpointHeader& trunk, int64_t steps);

/// Of the first step after the branching point.
struct BranchingRates {
  double trunk = 0, branch = 0;  ///< learning rates: as the trunk would have gone on, and as the branch does
  /// Whether they differ by more than schedules of other lengths do: a decay that should have begun before the branch.
  bool jump() const;
};

/// `then` are the trunk's settings, `now` those of a branch of `steps` steps.
BranchingRates branching_rates(const CheckpointHeader& trunk, const Settings& then, const Settings& now, int64_t steps);

}  // namespace nibble
