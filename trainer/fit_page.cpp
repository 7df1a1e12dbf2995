#include "trainer/fit_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "trainer/fit_output.hpp"
#include "trainer/page_frame.hpp"
#include "trainer/report_figure.hpp"

namespace nibble {
namespace {

/// What runs share a colour for.
std::string kind_of(const FittedPoint& fitted) {
  const FitPoint& run = fitted.point;
  std::string name =
      run.forward == run.backward ? run.forward : run.forward + " forward, " + run.backward + " backward";
  return fitted.held_out ? name + " (held out)" : name;
}

std::vector<std::string> kinds_of(const LawFit& fit) {
  std::vector<std::string> names;
  for (const FittedPoint& run : fit.points)
    if (std::ranges::find(names, kind_of(run)) == names.end()) names.push_back(kind_of(run));
  return names;
}

using Quantity = std::function<double(const FittedPoint&)>;

void draw_runs(Html& html, const LawFit& fit, Figure figure, const Quantity& x, const Quantity& y) {
  const std::vector<std::string> kinds = kinds_of(fit);
  for (size_t i = 0; i < kinds.size(); ++i) {
    Curve curve{.name = kinds[i], .color = i, .dots = true, .line = false};
    for (const FittedPoint& run : fit.points)
      if (kind_of(run) == kinds[i]) {
        curve.x.push_back(x(run));
        curve.y.push_back(y(run));
      }
    figure.curves.push_back(curve);
  }
  const auto [low, high] = std::ranges::minmax(fit.points, {}, x);
  figure.x_begin = x(low) * 0.995;
  figure.x_end = x(high) * 1.005;
  draw(html, figure);
}

double measured(const FittedPoint& run) { return run.point.loss; }
double percent(const FittedPoint& run) { return 100 * run.residual; }

}  // namespace

std::string fit_page(const LawFit& fit) {
  Html html;
  const std::string title = std::string("Scaling law: ") + fit.law->name;
  begin_page(html, title);
  html.open("header");
  html.element("h1", title);
  html.element("p", fit.law->formula);
  html.element("p", fit.law->source);
  for (const std::string& warning : fit.warnings) html.element("p", warning, {{"class", "problem"}});
  html.close();
  html.open("section");
  html.element("pre", fit_text(fit));
  html.close();
  html.open("section");
  html.element("h2", "Predicted and measured");
  draw_legend(html, kinds_of(fit));
  html.open("div", {{"class", "figures"}});
  const auto [low, high] = std::ranges::minmax(fit.points, {}, measured);
  const double ends[] = {measured(low) * 0.995, measured(high) * 1.005};
  Figure diagonal{.title = "Predicted against measured loss",
                  .note = "nats per token; on the line both are the same",
                  .x_label = "measured"};
  diagonal.curves.push_back(
      {.name = "predicted = measured", .color = 7, .x = {ends[0], ends[1]}, .y = {ends[0], ends[1]}});
  draw_runs(html, fit, diagonal, measured, [](const FittedPoint& run) { return run.predicted; });
  draw_runs(
      html, fit,
      {.title = "Residual",
       .note = "predicted above measured, in percent",
       .x_label = "tokens per parameter",
       .x_magnitudes = true},
      [](const FittedPoint& run) { return run.point.tokens / run.point.parameters; }, percent);
  draw_runs(
      html, fit,
      {.title = "Residual",
       .note = "predicted above measured, in percent",
       .x_label = "parameters",
       .x_magnitudes = true},
      [](const FittedPoint& run) { return run.point.parameters; }, percent);
  html.close();
  html.close();
  return finish_page(html);
}

}  // namespace nibble
