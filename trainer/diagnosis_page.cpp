#include "trainer/diagnosis_page.hpp"

#include <algorithm>
#include <functional>

#include "trainer/diagnosis_output.hpp"
#include "trainer/page_frame.hpp"
#include "trainer/report_figure.hpp"

namespace nibble {
namespace {

using Fill = std::function<void(const GradientQuality& quality, Curve& curve)>;

/// A curve for each recipe, of points that are measurements of their own.
void draw_recipes(Html& html, const GradientDiagnosis& diagnosis, Figure figure, const Fill& fill) {
  for (size_t i = 0; i < diagnosis.recipes.size(); ++i) {
    Curve curve{.name = diagnosis.recipes[i].recipe, .color = i, .dots = true};
    fill(diagnosis.recipes[i], curve);
    for (const double x : curve.x) figure.x_end = std::max(figure.x_end, x);
    figure.curves.push_back(std::move(curve));
  }
  draw(html, figure);
}

void errors_of_means(Html& html, const GradientDiagnosis& diagnosis) {
  for (const ComparisonKind& kind : comparison_kinds())
    draw_recipes(html, diagnosis,
                 {.title = std::string("Error of the mean over draws, ") + kind.title,
                  .note = kind.meaning,
                  .x_label = "draws",
                  .x_begin = 1,
                  .magnitudes = true,
                  .x_magnitudes = true},
                 [&](const GradientQuality& quality, Curve& curve) {
                   for (const auto& [draws, median] : (quality.*kind.member).errors) {
                     curve.x.push_back(static_cast<double>(draws));
                     curve.y.push_back(median);
                   }
                 });
}

void by_depth(Html& html, const GradientDiagnosis& diagnosis, const char* title, double Alignment::*value) {
  for (const ComparisonKind& kind : comparison_kinds())
    draw_recipes(html, diagnosis,
                 {.title = std::string(title) + ", " + kind.title, .note = kind.meaning, .x_label = "blocks above"},
                 [&](const GradientQuality& quality, Curve& curve) {
                   const std::vector<Alignment>& residual = (quality.*kind.member).residual;
                   for (size_t above = 0; above < residual.size(); ++above) {
                     curve.x.push_back(static_cast<double>(above));
                     curve.y.push_back(residual[residual.size() - 1 - above].*value);
                   }
                 });
}

void operand_errors(Html& html, const GradientDiagnosis& diagnosis) {
  std::vector<std::string> titles;
  for (const GradientQuality& quality : diagnosis.recipes)
    for (const OperandStatistic& operand : quality.operands)
      if (const std::string title = operand_title(operand.place); std::ranges::find(titles, title) == titles.end())
        titles.push_back(title);
  for (const std::string& title : titles)
    draw_recipes(html, diagnosis,
                 {.title = "Relative squared error of " + title,
                  .note = "of each linear layer: qkv, output, gate and up, down of block 0, of block 1 ...",
                  .x_label = "linear layer",
                  .magnitudes = true},
                 [&](const GradientQuality& quality, Curve& curve) {
                   for (const OperandStatistic& operand : quality.operands) {
                     if (operand_title(operand.place) != title) continue;
                     curve.x.push_back(static_cast<double>(curve.x.size()));
                     curve.y.push_back(operand.relative_squared_error());
                   }
                 });
}

}  // namespace

std::string diagnosis_page(const GradientDiagnosis& diagnosis, const std::string& title, const std::string& batch) {
  Html html;
  begin_page(html, title);
  html.open("header");
  html.element("h1", title);
  html.element("p", batch);
  html.close();
  html.open("section");
  std::vector<std::string> names;
  for (const GradientQuality& quality : diagnosis.recipes) names.push_back(quality.recipe);
  draw_legend(html, names);
  html.open("div", {{"class", "figures"}});
  errors_of_means(html, diagnosis);
  by_depth(html, diagnosis, "Cosine of the residual stream's gradient", &Alignment::cosine);
  by_depth(html, diagnosis, "Projection of the residual stream's gradient", &Alignment::projection);
  operand_errors(html, diagnosis);
  return finish_page(html);
}

}  // namespace nibble
