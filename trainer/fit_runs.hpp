// A run's directory as a point for scaling laws: its size, the tokens it saw, the validation loss at its end.
//
// Not for tables (fit_points.hpp).
#pragma once

#include <filesystem>

#include "trainer/fit_points.hpp"

namespace nibble {

/// Reads config.yaml and metrics.jsonl. A run that is not finished, has no validation loss at its end, or began with
/// another model's weights (what those saw is not in its tokens) is left out, with the reason.
/// Throws Error{checkpoint}: metrics that are missing or damaged before their last line.
void read_run_point(const std::filesystem::path& directory, FitPoints& into);

}  // namespace nibble
