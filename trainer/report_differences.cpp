#include "trainer/report_differences.hpp"

#include <algorithm>

#include "trainer/settings_table.hpp"

namespace nibble {
namespace {

/// Whether two of the values, of which empty ones are unknown, are not the same.
bool differ(const ComparisonRow& row) {
  const std::string* first = nullptr;
  for (const std::string& value : row.values) {
    if (value.empty()) continue;
    if (first && *first != value) return true;
    first = &value;
  }
  return false;
}

std::string value_of(const ReportRun& run, const std::string& name) {
  const auto found = std::ranges::find(run.tuning, name, &std::pair<std::string, std::string>::first);
  return found == run.tuning.end() ? "" : found->second;
}

}  // namespace

std::vector<ComparisonRow> differing_settings(std::span<const ReportRun> runs) {
  std::vector<ComparisonRow> rows;
  for (const Setting& setting : settings_table()) {
    if (setting.key == "run.directory") continue;
    ComparisonRow row{setting.key};
    for (const ReportRun& run : runs) row.values.push_back(run.settings ? format_value(setting, *run.settings) : "");
    if (differ(row)) rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<ComparisonRow> differing_tuning(std::span<const ReportRun> runs) {
  std::vector<ComparisonRow> rows;
  for (const ReportRun& named : runs)
    for (const auto& [name, value] : named.tuning) {
      if (std::ranges::find(rows, name, &ComparisonRow::name) != rows.end()) continue;
      ComparisonRow row{name};
      for (const ReportRun& run : runs) row.values.push_back(value_of(run, name));
      rows.push_back(std::move(row));
    }
  std::erase_if(rows, [](const ComparisonRow& row) { return !differ(row); });
  return rows;
}

void differences(Html& html, std::span<const ReportRun> runs) {
  if (runs.size() < 2) return;
  const std::pair<const char*, std::vector<ComparisonRow>> tables[] = {
      {"Settings that differ", differing_settings(runs)},
      {"Tuning and versions that differ", differing_tuning(runs)},
  };
  for (const auto& [title, rows] : tables) {
    html.open("section");
    html.element("h2", title);
    if (rows.empty()) html.element("p", "none");
    else comparison_table(html, runs, rows);
    html.close();
  }
}

void configurations(Html& html, std::span<const ReportRun> runs) {
  html.open("section");
  html.element("h2", "Configuration");
  for (const ReportRun& run : runs) {
    html.open("details");
    html.element("summary", run.name);
    std::string text = run.config_text + "\n# tuning.json:\n";
    for (const auto& [name, value] : run.tuning) text += "#   " + name + ": " + value + "\n";
    html.element("pre", text);
    html.close();
  }
  html.close();
}

}  // namespace nibble
