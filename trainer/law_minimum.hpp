// The constants of a scaling law at which the Huber loss of its residuals in ln L is least.
//
//   cost = 1/2 sum w rho(r),   rho(r) = r^2 within delta, 2 delta |r| - delta^2 beyond
//
// Levenberg-Marquardt on analytic derivatives (Ceres Solver), from many starts, because the cost has local minima and
// long valleys. One thread computes one start; results depend on no number of threads.
// Not for: which points and which constants (law_fit.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "tensor/stream.hpp"
#include "trainer/scaling_law.hpp"

namespace nibble {

struct LawProblem {
  const ScalingLaw* law = nullptr;
  std::span<const LawPoint> points{};
  std::vector<int> weights{};                  ///< how often each point counts; empty: once
  std::vector<std::optional<double>> fixed{};  ///< one for each value; none: fitted
  double huber = 0;

  size_t free_values() const;
};

struct LawMinimum {
  std::vector<double> values;
  double cost = 0;
  int starts = 0, reached = 0;  ///< of the starts, those that ended within a millionth of the least cost
                                ///< (of residuals of delta / 1000 where it is less)
};

/// From one start; an infinite cost where that is outside of what can be computed.
LawMinimum minimize_from(const LawProblem& problem, std::vector<double> start);

/// The best of `starts` random ones, the same ones for the same problem and `seed`. `done` is called on the calling
/// thread with the number of starts that ended since; may be empty.
LawMinimum minimize(Stream& stream, const LawProblem& problem, int starts, uint64_t seed,
                    const std::function<void(int64_t)>& done = {});

/// Uniform numbers for the start `number`, one for each of `count` values.
std::vector<double> start_uniforms(uint64_t seed, int number, size_t count);

/// Fitted values among which the points do not decide: those that take part in a change of the values which
/// leaves all predictions as they are, within a ten-millionth of what the best-determined change does.
/// Indices into `values`; empty where all is determined.
std::vector<size_t> undetermined(const LawProblem& problem, std::span<const double> values);

}  // namespace nibble
