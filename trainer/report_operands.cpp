#include "trainer/report_operands.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <string>

#include "trainer/metrics_reader.hpp"
#include "trainer/quantile.hpp"
#include "trainer/report_axis.hpp"

namespace nibble {
namespace {

using Rows = std::span<const OperandRow>;

int64_t last_step(Rows rows) { return rows.empty() ? 0 : std::ranges::max(rows, {}, &OperandRow::step).step; }

/// Where `value` is, at the end if it was not there yet.
template <class T>
size_t place_of(std::vector<T>& list, const T& value) {
  const auto found = std::ranges::find(list, value);
  const auto place = static_cast<size_t>(found - list.begin());
  if (found == list.end()) list.push_back(value);
  return place;
}

void figure(Html& html, Rows rows, size_t measure, double end) {
  draw(html, {.title = fmt::format("Operands: {}", operand_measures[measure].title),
              .note = operand_measures[measure].meaning,
              .x_label = "step",
              .x_end = end,
              .curves = operand_curves(rows, measure),
              .magnitudes = true});
}

void table(Html& html, Rows rows, size_t measure) {
  html.open("details");
  html.element("summary", fmt::format("Layers at step {}: {}, {}", last_step(rows), operand_measures[measure].title,
                                      operand_measures[measure].meaning));
  heat_table(html, last_operands(rows, measure));
  html.close();
}

void operands_of(Html& html, Rows rows, double end) {
  std::vector<size_t> shown;
  std::vector<std::string> zero;
  for (size_t i = 0; i < operand_measures.size(); ++i) {
    if (std::ranges::all_of(rows, [&](const OperandRow& row) { return row.values[i] == 0; }))
      zero.emplace_back(operand_measures[i].title);
    else shown.push_back(i);
  }
  html.open("div", {{"class", "figures"}});
  for (const size_t measure : shown) figure(html, rows, measure, end);
  html.close();
  if (!zero.empty()) html.element("p", fmt::format("Zero in all layers at all steps: {}.", fmt::join(zero, ", ")));
  for (const size_t measure : shown) table(html, rows, measure);
}

}  // namespace

std::vector<Curve> operand_curves(Rows rows, size_t measure) {
  std::array<std::map<int64_t, std::vector<double>>, operand_kinds.size()> layers;  // by step
  for (const OperandRow& row : rows)
    if (is_drawable(row.values[measure])) layers[row.kind][row.step].push_back(row.values[measure]);
  std::vector<Curve> curves;
  for (size_t kind = 0; kind < layers.size(); ++kind) {
    if (layers[kind].empty()) continue;
    Curve curve{.name = operand_kinds[kind].title(), .color = kind};
    for (const auto& [step, values] : layers[kind]) {
      curve.x.push_back(static_cast<double>(step));
      curve.y.push_back(median(values));
      curve.low.push_back(std::ranges::min(values));
      curve.high.push_back(std::ranges::max(values));
    }
    curves.push_back(std::move(curve));
  }
  return curves;
}

HeatTable last_operands(Rows rows, size_t measure) {
  HeatTable table;
  std::vector<size_t> kinds;
  const int64_t step = last_step(rows);
  for (size_t kind = 0; kind < operand_kinds.size(); ++kind)
    if (std::ranges::any_of(rows, [&](const OperandRow& row) { return row.step == step && row.kind == kind; })) {
      kinds.push_back(kind);
      table.columns.push_back(operand_kinds[kind].title());
    }
  for (const OperandRow& row : rows) {
    if (row.step != step) continue;
    const size_t layer = place_of(table.rows, row.layer);
    table.values.resize(table.rows.size(), std::vector<double>(kinds.size(), no_number));
    table.values[layer][place_of(kinds, row.kind)] = row.values[measure];
  }
  return table;
}

void operands(Html& html, std::span<const ReportRun> runs) {
  double end = 0;
  for (const ReportRun& run : runs) end = std::max(end, static_cast<double>(last_step(run.operands)));
  if (std::ranges::all_of(runs, [](const ReportRun& run) { return run.operands.empty(); })) return;
  html.open("section");
  html.element("h2", "Operands");
  html.element("p",
               "What quantization did to the operands of the linear layers: y multiplies x and w, dx multiplies dy and "
               "w, dw multiplies dy and x. A line is the median over the layers; the shade behind it spans the least "
               "and the largest layer. An operand without a line was not quantized.");
  std::vector<std::string> names;
  for (const OperandKind& kind : operand_kinds) names.push_back(kind.title());
  draw_legend(html, names);
  for (const ReportRun& run : runs) {
    if (run.operands.empty()) continue;
    if (runs.size() > 1) html.element("h3", run.name);
    operands_of(html, run.operands, end);
  }
  html.close();
}

}  // namespace nibble
