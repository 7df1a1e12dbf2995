// An axis of a figure: its range, linear or logarithmic, with round ticks.
//
// Not for drawing (report_figure.hpp).
#pragma once

#include <span>
#include <string>
#include <vector>

namespace nibble {

/// Four digits at most, large ones as people say them: 12.5k, 3M, 0.75B, 2T.
std::string compact_number(double value);

/// A finite number below 1e30: beyond that an axis's arithmetic would overflow; no quantity of a run gets there but by
/// diverging.
bool is_drawable(double value);

class FigureAxis {
 public:
  struct Tick {
    double value;
    std::string label;
  };

  /// Spans the values, which are drawable, with some room beside them. From zero where that costs little
  /// of the range.
  static FigureAxis linear(std::span<const double> values);
  /// Ends at these two, of which the second is the larger, unless both are the same.
  static FigureAxis between(double low, double high);
  /// Logarithmic where all values are positive and the largest is far above the smallest, else linear.
  static FigureAxis for_magnitudes(std::span<const double> values);

  bool logarithmic() const { return logarithmic_; }
  /// 0 at the low end, 1 at the high end.
  double position(double value) const;
  /// Powers of ten times 1, 2 or 5, inside the range, in rising order.
  std::vector<Tick> ticks() const;

 private:
  FigureAxis(double low, double high, bool logarithmic) : low_(low), high_(high), logarithmic_(logarithmic) {}
  std::vector<Tick> linear_ticks() const;
  std::vector<Tick> logarithmic_ticks() const;

  double low_, high_;  // logarithmic: their logarithms to base ten
  bool logarithmic_;
};

}  // namespace nibble
