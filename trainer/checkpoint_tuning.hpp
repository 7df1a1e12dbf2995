// Whatever was tuned when a run began is used again when it resumes: the same run gives the same numbers.
//
// Not for: choosing the tuning (the training loop) or storing it (manifest.hpp).
#pragma once

#include <nlohmann/json.hpp>

namespace nibble {

/// Compares the tuning that a checkpoint recorded with this process's. Returns whether they differ, for the metrics to
/// be marked. Throws Error{configuration} that lists every difference, unless `retune` accepts them.
bool check_tuning(const nlohmann::json& saved, const nlohmann::json& current, bool retune);

}  // namespace nibble
