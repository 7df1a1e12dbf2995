// A figure of a report: curves of several runs over one quantity, as inline SVG with HTML labels.
//
// Curves stretch with the page while text and lines keep their size, so a figure reads on a phone too.
// Not for choosing what is drawn (report_page.hpp).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "trainer/html.hpp"

namespace nibble {

/// Points of a curve that share one of the equal columns into which a figure's width is divided.
struct CurveColumn {
  double x = 0;  ///< mean
  double mean = 0, low = 0, high = 0;
};

struct Curve {
  std::string name;
  size_t color = 0;   ///< of the run: the same in all figures
  bool dots = false;  ///< few points that are measurements of their own; else a fine line with the band of its extremes
  bool line = true;   ///< through the dots; without it x may be in any order
  std::vector<double> x{}, y{};       ///< points with a y that is not finite are left out
  std::vector<double> low{}, high{};  ///< drawable; of each point, where it stands for several values
};

/// At most `columns` columns of the points, which have rising x from `begin` to `end`; empty ones are left out.
std::vector<CurveColumn> in_columns(const Curve& curve, double begin, double end, size_t columns);

struct Figure {
  std::string title, note, x_label;
  double x_begin = 0, x_end = 1;  ///< where the horizontal axis begins and ends; no point lies beside it
  std::vector<Curve> curves{};
  bool magnitudes = false;    ///< a logarithmic axis where the values are far apart
  bool x_magnitudes = false;  ///< the same of the horizontal axis
};

/// A fine line passes through the mean of each of so many equal columns, about two pixels of a wide screen.
inline constexpr size_t columns_of_a_figure = 400;

/// The classes that give a run its colour, and its dashes where there are more runs than colours.
std::string color_class(size_t color);

/// The runs' names beside their colours, once for all figures.
void draw_legend(Html& html, std::span<const std::string> names);

/// Draws the figure; nothing where no curve has a point.
void draw(Html& html, const Figure& figure);

}  // namespace nibble
