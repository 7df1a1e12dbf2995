#include "trainer/report_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "trainer/report_axis.hpp"
#include "trainer/report_figure.hpp"

namespace nibble {
namespace {

/// More do not fit beside each other.
constexpr size_t most_columns = 3;

void header_cell(Html& html, const std::string& name, const std::string& color) {
  html.open("th");
  if (!color.empty()) html.element("span", "", {{"class", color + " block"}});
  html.text(name);
  html.close();
}

void value_cell(Html& html, const std::string& value) { html.element("td", value.empty() ? "–" : value); }

void begin_table(Html& html, const char* classes = "scroll") {
  html.open("div", {{"class", classes}});
  html.open("table");
  html.open("thead");
  html.open("tr");
  html.element("th", "");
}

void end_header(Html& html) {
  html.close();
  html.close();
  html.open("tbody");
}

void end_table(Html& html) {
  html.close();
  html.close();
  html.close();
}

void runs_in_columns(Html& html, std::span<const ReportRun> runs, std::span<const ComparisonRow> rows) {
  begin_table(html);
  for (size_t i = 0; i < runs.size(); ++i) header_cell(html, runs[i].name, color_class(i));
  end_header(html);
  for (const ComparisonRow& row : rows) {
    html.open("tr");
    header_cell(html, row.name, "");
    for (const std::string& value : row.values) value_cell(html, value);
    html.close();
  }
  end_table(html);
}

void runs_in_rows(Html& html, std::span<const ReportRun> runs, std::span<const ComparisonRow> rows) {
  begin_table(html);
  for (const ComparisonRow& row : rows) header_cell(html, row.name, "");
  end_header(html);
  for (size_t i = 0; i < runs.size(); ++i) {
    html.open("tr");
    header_cell(html, runs[i].name, color_class(i));
    for (const ComparisonRow& row : rows) value_cell(html, row.values[i]);
    html.close();
  }
  end_table(html);
}

}  // namespace

void comparison_table(Html& html, std::span<const ReportRun> runs, std::span<const ComparisonRow> rows) {
  if (runs.size() <= most_columns) runs_in_columns(html, runs, rows);
  else runs_in_rows(html, runs, rows);
}

void heat_table(Html& html, const HeatTable& table) {
  std::vector<double> all;
  for (const std::vector<double>& row : table.values) std::ranges::copy_if(row, std::back_inserter(all), is_drawable);
  const FigureAxis axis = FigureAxis::for_magnitudes(all);
  begin_table(html, "scroll heat");
  for (const std::string& name : table.columns) header_cell(html, name, "");
  end_header(html);
  for (size_t i = 0; i < table.rows.size(); ++i) {
    html.open("tr");
    header_cell(html, table.rows[i], "");
    for (const double value : table.values[i]) {
      if (is_drawable(value))
        html.element("td", compact_number(value), {{"style", fmt::format("--heat:{:.2f}", axis.position(value))}});
      else value_cell(html, "");
    }
    html.close();
  }
  end_table(html);
}

}  // namespace nibble
