// Whatever was tuned when a run began is used again when it resumes: the same run gives the same numbers.
//
// Not for: choosing the tuning (the training loop) or storing it (manifest.hpp).
#pragma once

#include <nlohmann/json.hpp>

namespace nibble {

/// How GPUs sent to each other: recorded, but no part of the comparison, as it changes no number.
inline constexpr const char* gpu_exchange_key = "gpu_exchange";

/// Compares the tuning that a checkpoint recorded with this process's. Returns whether they differ, for the metrics to
/// be marked. Throws Error{configuration} that lists every difference, unless `retune` accepts them.
bool check_tuning(nlohmann::json saved, nlohmann::json current, bool retune);

}  // namespace nibble
