// The coordinate check of muP: how far a few steps move what models of several widths compute.
//
// Yang et al., "Tensor Programs V", arXiv 2203.03466, appendix D.1. Where parametrisation and optimizer suit each
// other, changes of the residual stream and of the logits are as large at every width; where they do not, they grow or
// shrink as a power of it. Not for: the rules that make it so (mup.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "trainer/settings.hpp"

namespace nibble {

struct Coordinate {
  std::string name;  ///< "embedding", "block 0", ..., "logits"
  /// changes[width][t]: root mean square of x_t - x_0 over the elements, x_t after t steps, on a batch that is not
  /// trained on.
  std::vector<std::vector<double>> changes;
};

struct CoordinateCheck {
  std::vector<int64_t> widths;
  std::vector<Coordinate> coordinates;

  /// p of changes ~ width^p after the last step, by least squares of the logarithms.
  double exponent(const Coordinate& coordinate) const;
  /// Whether all exponents are that small: widths double, and changes differ by a fifth at most.
  static constexpr double flat = 0.25;
  bool independent_of_width() const;
};

/// The settings at another width: all sides in proportion, heads of the same dimension. `vocabulary` of the data.
/// Throws Error{configuration} where that leaves no whole number of heads.
Settings at_width(const Settings& settings, int64_t vocabulary, int64_t width);

/// Trains at each width for so many steps, at the peak of the learning rate from the first one on; on this process
/// alone, writing nothing. `step_done` is told of each.
/// Throws Error{configuration} for fewer than two widths, no steps, or a width that appears twice.
CoordinateCheck check_coordinates(const Settings& settings, const std::vector<int64_t>& widths, int64_t steps,
                                  const std::function<void()>& step_done = {});

/// Coordinates down, widths across, exponents at the end.
std::string coordinates_text(const CoordinateCheck& check);
/// Changes against width after the last step.
std::string coordinates_page(const CoordinateCheck& check, const std::string& title);

}  // namespace nibble
