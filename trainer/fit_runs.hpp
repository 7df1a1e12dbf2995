// A run's directory as a point for scaling laws: its size, the tokens it saw, the validation loss at its end.
//
// Not for tables (fit_points.hpp).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "trainer/fit_points.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// Both passes of a run as points name them: "bf16" or "fp32" where nothing is quantized, the recipe's name and what
/// makes exceptions to it.
struct PassNames {
  std::string forward, backward;
  std::optional<ForwardRecipe> formats{};  ///< as in FitPoint
};
PassNames name_passes(const PrecisionSettings& precision);

/// Reads config.yaml and metrics.jsonl. A run that is not finished, has no validation loss at its end, or began with
/// another model's weights (what those saw is not in its tokens) is left out, with the reason. The loss on a synthetic
/// language is its entropy and the gap to what it loses itself on the tokens of the validation.
/// Throws Error{checkpoint}: metrics that are missing or damaged before their last line.
void read_run_point(const std::filesystem::path& directory, FitPoints& into);

}  // namespace nibble
