// Which run takes which part in the fit of a law.
//
// Not for the fit (law_fit.hpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tensor/stream.hpp"
#include "trainer/fit_points.hpp"
#include "trainer/scaling_law.hpp"

namespace nibble {

/// What is fitted of a recipe by itself.
struct EfficiencyName {
  std::string recipe;
  bool of_data = false;  ///< eff_D of a backward recipe, not eff_N of a forward one

  bool operator==(const EfficiencyName&) const = default;
};

/// Runs with the same recipes.
struct LawGroup {
  std::optional<size_t> efficiency{};  ///< of these runs alone; its place in LawRuns::efficiencies
  std::vector<size_t> members{};       ///< places in LawRuns::points
};

struct LawRuns {
  std::vector<FitPoint> points{};      ///< those that the law can say something of
  std::vector<LawPoint> law_points{};  ///< the same
  std::vector<FormatFacts> formats{};  ///< of the same
  std::vector<EfficiencyName> efficiencies{};
  std::vector<LawGroup> groups{};  ///< of the runs to fit; first those that are not quantized
  std::vector<size_t> held_out{};
  std::vector<LeftOut> left_out{};
};

/// Formats of each run: its recipe's, or what the table says. Errors, where the law or its reader wants them, are
/// measured on `parts` (format_measurement.hpp).
std::vector<FormatFacts> formats_of(Stream& stream, const ScalingLaw& law, const std::vector<FitPoint>& runs,
                                    int64_t parts);

/// `formats` of each run; `hold_out_above`: runs with more parameters are held out.
/// Throws Error{configuration}: no run that is not quantized.
LawRuns divide_runs(const ScalingLaw& law, const FitPoints& runs, const std::vector<FormatFacts>& formats,
                    std::optional<double> hold_out_above);

}  // namespace nibble
