#include "trainer/report_page.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <functional>

#include "trainer/memory.hpp"
#include "trainer/metric_columns.hpp"
#include "trainer/page_frame.hpp"
#include "trainer/progress.hpp"
#include "trainer/quantile.hpp"
#include "trainer/report_axis.hpp"
#include "trainer/report_differences.hpp"
#include "trainer/report_figure.hpp"
#include "trainer/report_operands.hpp"
#include "trainer/report_phases.hpp"
#include "trainer/report_table.hpp"
#include "trainer/report_twins.hpp"

namespace nibble {
namespace {

using Runs = std::span<const ReportRun>;

std::string bytes_text(double bytes) { return format_bytes(static_cast<size_t>(bytes)); }

// Final values --------------------------------------------------------------------------------------------------------

std::string last_number(const MetricTable& metrics, const std::string& column, const char* format) {
  const std::vector<double> numbers = metrics.numbers(column);
  return numbers.empty() ? "" : fmt::format(fmt::runtime(format), numbers.back());
}

std::string least(const MetricTable& metrics, const std::string& column) {
  const std::vector<double> numbers = metrics.numbers(column);
  return numbers.empty() ? "" : fmt::format("{:.4f}", std::ranges::min(numbers));
}

std::string best_validation(const MetricTable& metrics) {
  const std::vector<double>&losses = metrics["validation_loss"], &steps = metrics["step"];
  size_t best = losses.size();
  for (size_t i = 0; i < losses.size(); ++i)
    if (std::isfinite(losses[i]) && (best == losses.size() || losses[i] < losses[best])) best = i;
  return best == losses.size() ? "" : fmt::format("{:.4f} at step {:.0f}", losses[best], steps[best]);
}

std::string median_number(const MetricTable& metrics, const std::string& column) {
  const std::vector<double> numbers = metrics.numbers(column);
  return numbers.empty() ? "" : compact_number(median(numbers));
}

std::string largest_bytes(const MetricTable& metrics, const std::string& column) {
  const std::vector<double> numbers = metrics.numbers(column);
  return numbers.empty() ? "" : bytes_text(std::ranges::max(numbers));
}

std::string total(const MetricTable& metrics, const std::string& column,
                  const std::function<std::string(double)>& as_text) {
  const std::optional<double> sum = metrics.sum(column);
  return sum ? as_text(*sum) : "";
}

std::string run_time(const MetricTable& metrics) {
  const std::optional<double> steps = metrics.sum("seconds");
  return steps ? format_duration(*steps + metrics.sum("seconds_checkpoint").value_or(0)) : "";
}

std::string last_time(const MetricTable& metrics) {
  const std::vector<double> times = metrics.numbers("time");
  constexpr double year_9999 = 253402300800;
  if (times.empty() || !(times.back() >= 0 && times.back() < year_9999)) return "";
  return fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(static_cast<std::time_t>(times.back())));
}

void final_values(Html& html, Runs runs) {
  const auto whole = [](double value) { return fmt::format("{:.0f}", value); };
  const std::pair<const char*, std::function<std::string(const MetricTable&)>> rows[] = {
      {"steps", [](const MetricTable& m) { return last_number(m, "step", "{:.0f}"); }},
      {"tokens",
       [](const MetricTable& m) {
         const std::vector<double> tokens = m.numbers("tokens");
         return tokens.empty() ? "" : compact_number(tokens.back());
       }},
      {"last loss, nats per token", [](const MetricTable& m) { return last_number(m, "loss", "{:.4f}"); }},
      {"best validation loss", best_validation},
      {"entropy of the language", [](const MetricTable& m) { return last_number(m, "entropy", "{:.4f}"); }},
      {"best gap to the language", [](const MetricTable& m) { return least(m, "validation_gap"); }},
      {"best bits per byte", [](const MetricTable& m) { return least(m, "validation_bits_per_byte"); }},
      {"tokens/s, median", [](const MetricTable& m) { return median_number(m, "tokens_per_second"); }},
      {"time", run_time},
      {"last step at", last_time},
      {"refused steps", [&](const MetricTable& m) { return total(m, "refused", whole); }},
      {"peak memory", [](const MetricTable& m) { return largest_bytes(m, "peak_resident_bytes"); }},
      {"bytes sent per step, median", [](const MetricTable& m) { return median_number(m, "bytes_sent"); }},
      {"bytes sent in all", [](const MetricTable& m) { return total(m, "bytes_sent", bytes_text); }},
      {"steps after a change of tuning", [&](const MetricTable& m) { return total(m, "retuned", whole); }},
  };
  std::vector<ComparisonRow> table;
  for (const auto& [name, value_of] : rows) {
    ComparisonRow row{name, {}};
    for (const ReportRun& run : runs) row.values.push_back(value_of(run.metrics));
    if (std::ranges::any_of(row.values, [](const std::string& value) { return !value.empty() && value != "0"; }) ||
        row.name == "refused steps")
      table.push_back(row);
  }
  html.open("section");
  html.element("h2", "Final values");
  comparison_table(html, runs, table);
  html.close();
}

// Curves --------------------------------------------------------------------------------------------------------------

/// Tokens, which runs with other batches share, if every run counts them.
std::string abscissa(Runs runs) {
  const auto counts_tokens = [](const ReportRun& run) {
    return run.metrics.rows() == 0 || !run.metrics.numbers("tokens").empty();
  };
  return std::ranges::all_of(runs, counts_tokens) ? "tokens" : "step";
}

void add_curves(Figure& figure, Runs runs, const std::string& column, bool dots) {
  for (size_t i = 0; i < runs.size(); ++i) {
    const MetricTable& metrics = runs[i].metrics;
    if (metrics[column].empty() || metrics[figure.x_label].empty()) continue;
    figure.curves.push_back(
        {.name = runs[i].name, .color = i, .dots = dots, .x = metrics[figure.x_label], .y = metrics[column]});
  }
}

/// Where the horizontal axis of every figure ends; all begin at zero.
double end_of(Runs runs, const std::string& x) {
  double end = 0;
  for (const ReportRun& run : runs)
    for (const double value : run.metrics.numbers(x)) end = std::max(end, value);
  return end;
}

/// Those of groups of parameters, each once.
std::vector<std::string> update_columns(Runs runs) {
  std::vector<std::string> columns;
  for (const ReportRun& run : runs)
    for (const std::string& name : run.metrics.names())
      if (name.starts_with(update_rms_column("")) || name.starts_with(orthogonality_error_column("")))
        if (std::ranges::find(columns, name) == columns.end()) columns.push_back(name);
  return columns;
}

void figures(Html& html, Runs runs) {
  if (std::ranges::all_of(runs, [](const ReportRun& run) { return run.metrics.rows() == 0; })) return;
  const std::string x = abscissa(runs);
  const double end = end_of(runs, x);
  html.open("section");
  html.element("h2", "Curves");
  html.element("p", fmt::format("A fine line passes through the mean of each of {} equal columns; the shade behind it "
                                "spans the least and the largest value there.",
                                columns_of_a_figure));
  if (runs.size() > 1) {
    std::vector<std::string> names;
    for (const ReportRun& run : runs) names.push_back(run.name);
    draw_legend(html, names);
  }
  html.open("div", {{"class", "figures"}});
  Figure loss{
      .title = "Loss", .note = "nats per token; fine lines: training, dots: validation", .x_label = x, .x_end = end};
  add_curves(loss, runs, "loss", false);
  add_curves(loss, runs, "validation_loss", true);
  html.open("div", {{"class", "wide"}});
  draw(html, loss);
  html.close();

  struct Panel {
    std::string column, title, note;
    bool dots, magnitudes;
  };
  const Panel panels[] = {
      {"validation_loss", "Validation loss", "nats per token", true, false},
      {"validation_bits_per_byte", "Validation, bits per byte", "independent of the tokenizer", true, false},
      {"validation_gap", "Gap to the language", "validation loss less the language's own on the same tokens", true,
       false},
      {"learning_rate", "Learning rate", "as scheduled", false, false},
      {"gradient_norm", "Gradient norm", "before clipping", false, true},
      {"max_logit", "Largest logit of attention", "over all layers, heads and tokens of a step", false, true},
      {"tokens_per_second", "Tokens per second", "without validation and checkpoints", false, false},
      {"bytes_sent", "Bytes sent", "in each step", false, true},
  };
  const auto draw_panel = [&](const Panel& panel) {
    Figure figure{.title = panel.title,
                  .note = panel.note,
                  .x_label = x,
                  .x_end = end,
                  .curves = {},
                  .magnitudes = panel.magnitudes};
    add_curves(figure, runs, panel.column, panel.dots);
    draw(html, figure);
  };
  for (const Panel& panel : panels) draw_panel(panel);
  for (const std::string& column : update_columns(runs)) {
    const bool length = column.starts_with(update_rms_column(""));
    const std::string group =
        column.substr(length ? update_rms_column("").size() : orthogonality_error_column("").size());
    draw_panel({.column = column,
                .title = (length ? "Update RMS, " : "Orthogonality error, ") + group,
                .note = length ? "of what the learning rate is multiplied with" : "largest of the matrices",
                .dots = false,
                .magnitudes = false});
  }
  html.close();
  html.close();
}

// The page ------------------------------------------------------------------------------------------------------------

void page_header(Html& html, Runs runs) {
  html.open("header");
  html.element("h1", runs.size() == 1 ? runs[0].name : fmt::format("{} runs", runs.size()));
  html.element("p", runs.size() == 1 ? runs[0].directory.string() : "Nibble's report on training runs");
  for (const ReportRun& run : runs) {
    if (run.metrics.rows() == 0) html.element("p", run.name + ": no step yet", {{"class", "problem"}});
    for (const std::string& problem : run.problems) html.element("p", problem, {{"class", "problem"}});
  }
  html.close();
}

}  // namespace

std::string report_page(Runs runs) {
  Html html;
  begin_page(html, runs.size() == 1 ? runs[0].name + ": report" : fmt::format("{} runs: report", runs.size()));
  page_header(html, runs);
  final_values(html, runs);
  twin_table(html, runs);
  figures(html, runs);
  time_by_phase(html, runs);
  operands(html, runs);
  differences(html, runs);
  configurations(html, runs);
  return finish_page(html);
}

}  // namespace nibble
