#include "trainer/report_figure.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "trainer/report_axis.hpp"

namespace nibble {
namespace {

/// Units of the SVG in both directions; the browser stretches them to the figure's size.
constexpr double canvas = 1000;

Curve finite_points(const Curve& curve) {
  Curve kept{.name = curve.name, .color = curve.color, .dots = curve.dots, .line = curve.line};
  for (size_t i = 0; i < curve.x.size(); ++i) {
    if (!is_drawable(curve.x[i]) || !is_drawable(curve.y[i])) continue;
    kept.x.push_back(curve.x[i]);
    kept.y.push_back(curve.y[i]);
    if (curve.low.empty()) continue;
    kept.low.push_back(curve.low[i]);
    kept.high.push_back(curve.high[i]);
  }
  return kept;
}

class Canvas {
 public:
  Canvas(const FigureAxis& x, const FigureAxis& y) : x_(x), y_(y) {}

  std::string point(double x, double y) const {
    return fmt::format("{:.1f} {:.1f}", canvas * x_.position(x), canvas * (1 - y_.position(y)));
  }

 private:
  const FigureAxis &x_, &y_;
};

/// A path through all points.
std::string line_path(const Canvas& at, const std::vector<CurveColumn>& columns) {
  std::string path;
  for (const CurveColumn& column : columns) path += (path.empty() ? "M" : "L") + at.point(column.x, column.mean);
  return path;
}

/// A path along the largest values and back along the least.
std::string band_path(const Canvas& at, const std::vector<CurveColumn>& columns) {
  std::string path;
  for (const CurveColumn& column : columns) path += (path.empty() ? "M" : "L") + at.point(column.x, column.high);
  for (size_t i = columns.size(); i-- > 0;) path += "L" + at.point(columns[i].x, columns[i].low);
  return path + "Z";
}

/// A stroke of no length with round ends is a dot that stretching leaves round.
std::string dots_path(const Canvas& at, const std::vector<CurveColumn>& columns) {
  std::string path;
  for (const CurveColumn& column : columns) path += "M" + at.point(column.x, column.mean) + "h0";
  return path;
}

void draw_band(Html& html, const Curve& curve, const Canvas& at, const std::vector<CurveColumn>& columns) {
  if (std::ranges::any_of(columns, [](const CurveColumn& column) { return column.low < column.high; }))
    html.empty("path", {{"class", color_class(curve.color) + " band"}, {"d", band_path(at, columns)}});
}

void draw_line(Html& html, const Curve& curve, const Canvas& at, const std::vector<CurveColumn>& columns) {
  const std::string color = color_class(curve.color);
  const auto path = [&](const char* look, const std::string& d) {
    html.open("path", {{"class", color + look}, {"d", d}});
    html.element("title", curve.name);
    html.close();
  };
  if (curve.line) path(curve.dots ? " line strong" : " line", line_path(at, columns));
  if (curve.dots || columns.size() == 1) path(" dots", dots_path(at, columns));
}

/// Each point by itself.
std::vector<CurveColumn> uncollected(const Curve& curve) {
  std::vector<CurveColumn> points;
  for (size_t i = 0; i < curve.x.size(); ++i)
    points.push_back({.x = curve.x[i], .mean = curve.y[i], .low = curve.y[i], .high = curve.y[i]});
  return points;
}

}  // namespace

std::vector<CurveColumn> in_columns(const Curve& curve, double begin, double end, size_t columns) {
  const std::vector<double>&x = curve.x, &y = curve.y;
  const std::vector<double>&low = curve.low.empty() ? y : curve.low, &high = curve.high.empty() ? y : curve.high;
  std::vector<CurveColumn> result;
  const double width = (end - begin) / static_cast<double>(columns);
  size_t count = 0, current = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t index =
        width > 0 ? std::min(columns - 1, static_cast<size_t>(std::max(0.0, (x[i] - begin) / width))) : 0;
    if (result.empty() || index != current) {
      result.push_back({.x = x[i], .mean = y[i], .low = low[i], .high = high[i]});
      current = index;
      count = 1;
      continue;
    }
    CurveColumn& column = result.back();
    ++count;
    column.x += (x[i] - column.x) / static_cast<double>(count);
    column.mean += (y[i] - column.mean) / static_cast<double>(count);
    column.low = std::min(column.low, low[i]);
    column.high = std::max(column.high, high[i]);
  }
  return result;
}

std::string color_class(size_t color) {
  constexpr size_t colors = 8, dashes = 3;
  return fmt::format("c{} d{}", color % colors, color / colors % dashes);
}

void draw_legend(Html& html, std::span<const std::string> names) {
  html.open("ul", {{"class", "legend runs"}});
  for (size_t i = 0; i < names.size(); ++i) {
    html.open("li");
    html.open("svg", {{"class", "key"}, {"viewBox", "0 0 24 8"}, {"aria-hidden", "true"}});
    html.empty("path", {{"class", color_class(i) + " line strong"}, {"d", "M1 4H23"}});
    html.close();
    html.text(names[i]);
    html.close();
  }
  html.close();
}

void draw(Html& html, const Figure& figure) {
  std::vector<Curve> curves;
  std::vector<double> all_y;
  for (const Curve& curve : figure.curves) {
    curves.push_back(finite_points(curve));
    for (const std::vector<double>& values : {curves.back().y, curves.back().low, curves.back().high})
      all_y.insert(all_y.end(), values.begin(), values.end());
  }
  std::erase_if(curves, [](const Curve& curve) { return curve.x.empty(); });
  if (curves.empty()) return;
  const double x_ends[] = {figure.x_begin, figure.x_end};
  const FigureAxis x_axis =
      figure.x_magnitudes ? FigureAxis::for_magnitudes(x_ends) : FigureAxis::between(figure.x_begin, figure.x_end);
  const FigureAxis y_axis = figure.magnitudes ? FigureAxis::for_magnitudes(all_y) : FigureAxis::linear(all_y);
  const Canvas at(x_axis, y_axis);

  html.open("figure");
  html.open("figcaption");
  html.element("h3", figure.title);
  html.element("p", figure.note + (y_axis.logarithmic() ? "; logarithmic scale" : ""));
  html.close();
  html.open("div", {{"class", "plot"}});
  html.open("svg", {{"viewBox", "0 0 1000 1000"},
                    {"preserveAspectRatio", "none"},
                    {"role", "img"},
                    {"aria-label", figure.title + ": " + figure.note}});
  for (const FigureAxis::Tick& tick : y_axis.ticks())
    html.empty("path",
               {{"class", "grid"}, {"d", fmt::format("M0 {:.1f}H1000", canvas * (1 - y_axis.position(tick.value)))}});
  html.empty("path", {{"class", "axis"}, {"d", "M0 0V1000H1000"}});
  for (const auto part : {draw_band, draw_line})  // no band hides another curve's line
    for (const Curve& curve : curves)
      part(html, curve, at,
           curve.line ? in_columns(curve, figure.x_begin, figure.x_end, columns_of_a_figure) : uncollected(curve));
  html.close();
  for (const FigureAxis::Tick& tick : y_axis.ticks())
    html.element("span", tick.label,
                 {{"class", "y"}, {"style", fmt::format("top:{:.2f}%", 100 * (1 - y_axis.position(tick.value)))}});
  for (const FigureAxis::Tick& tick : x_axis.ticks())
    html.element("span", tick.label,
                 {{"class", "x"}, {"style", fmt::format("left:{:.2f}%", 100 * x_axis.position(tick.value))}});
  html.close();
  html.element("p", figure.x_label, {{"class", "x-label"}});
  html.close();
}

}  // namespace nibble
