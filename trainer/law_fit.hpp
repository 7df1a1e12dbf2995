// A scaling law fitted to runs: constants, efficiencies of recipes, intervals, and what the fit says of runs that it
// has not seen.
//
// Quartet's law is fitted in two stages: the constants on runs that are not quantized; then, with these kept, eff_N of
// a forward recipe on runs that quantize forward alone and eff_D of a backward recipe on those that quantize backward
// alone. Runs that quantize both are predicted by the product form. The other laws are fitted in one stage.
// Not for: text and pages (fit_output.hpp, fit_page.hpp), the minimisation (law_minimum.hpp).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tensor/stream.hpp"
#include "trainer/fit_points.hpp"
#include "trainer/law_groups.hpp"
#include "trainer/scaling_law.hpp"

namespace nibble {

struct LawFitOptions {
  std::string law = "chinchilla";
  std::optional<double> huber{};           ///< none: the law's
  int starts = 128;                        ///< of each minimisation
  int bootstrap = 200;                     ///< resamples behind the intervals; 0: none
  std::map<std::string, double> fixed{};   ///< constants by name that are known
  std::optional<double> hold_out_above{};  ///< runs with more parameters are predicted, not fitted
};

struct Interval {
  double low, high;  ///< 2.5 and 97.5 percent of the resamples

  bool operator==(const Interval&) const = default;
};

struct FittedConstant {
  std::string name;
  double value;
  bool fixed = false;
  std::optional<Interval> interval{};
};

/// Of residuals ln L(predicted) - ln L(measured).
struct ResidualSize {
  size_t runs = 0;
  double rms = 0, largest = 0, mean = 0;
};

struct FittedEfficiency {
  EfficiencyName of;
  double value = 1;
  std::optional<Interval> interval{};
  ResidualSize residuals{};
  int starts = 0, reached = 0;       ///< 0: fitted together with the constants
  std::optional<double> capacity{};  ///< eff_N by the unified law's published constants from the formats' errors
};

struct FittedPoint {
  FitPoint point;
  bool held_out = false;
  double predicted = 0;  ///< loss
  double residual = 0;   ///< ln predicted - ln measured
};

struct LawFit {
  const ScalingLaw* law = nullptr;
  double huber = 0, cost = 0;  ///< cost of the constants' minimisation (law_minimum.hpp)
  int starts = 0, reached = 0, resamples = 0;
  std::vector<FittedConstant> constants{};
  std::vector<FittedEfficiency> efficiencies{};
  std::vector<FittedPoint> points{};
  ResidualSize residuals{};  ///< of the runs behind the constants
  std::optional<ResidualSize> held_out{};
  /// Of ln L between runs that are alike in size, tokens and recipes, of several seeds say: pooled standard deviation,
  /// and its degrees of freedom.
  std::optional<double> noise{};
  size_t noise_degrees = 0;
  std::optional<double> entropy{};  ///< of all the runs' data, at which E was fixed
  std::vector<LeftOut> left_out{};
  std::vector<std::string> warnings{};
};

/// E is fixed at the entropy of the runs' data where every run knows one, they agree, and `options` fix no other.
/// `progress(done, of)` counts minimisations, on the calling thread; may be empty.
/// Throws Error{configuration}: an unknown law or constant, no runs without quantization, fewer different runs than
/// fitted values, fewer different formats than the constants that only formats tell.
LawFit fit_law(Stream& stream, const FitPoints& runs, const LawFitOptions& options,
               const std::function<void(int64_t done, int64_t of)>& progress = {});

}  // namespace nibble
