#include "trainer/branch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tensor/error.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {

ModelSource find_trunk(const std::filesystem::path& named) {
  ModelSource source = find_model(named);
  if (!source.checkpoint)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "a branch goes on with the state of a run, and the folder holds weights alone",
                 .where = fmt::format("run.branch: {}", source.path.string()),
                 .seen = "a Hugging Face folder",
                 .allowed = "a run's directory, or RUN/checkpoints/step_00000500",
                 .next = "start a new run from these weights with model.from"});
  return source;
}

void require_own_steps(const CheckpointHeader& trunk, int64_t steps) {
  if (steps > trunk.step) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = "the branch begins where it has ended already",
               .where = "steps, run.branch",
               .seen = fmt::format("{} steps, of which the trunk has done {}", steps, trunk.step),
               .allowed = fmt::format("more than {}: the trunk's steps count", trunk.step),
               .next = "raise steps (or tokens, epochs), or branch from an earlier checkpoint"});
}

bool BranchingRates::jump() const {
  constexpr double same = 0.1;
  return std::abs(branch - trunk) > same * std::max(branch, trunk);
}

BranchingRates branching_rates(const CheckpointHeader& trunk, const Settings& then, const Settings& now,
                               int64_t steps) {
  return {.trunk = learning_rate(schedule_settings(then, std::max(trunk.total_steps, trunk.step)), trunk.step),
          .branch = learning_rate(schedule_settings(now, steps), trunk.step)};
}

}  // namespace nibble
