// The tables of a report: quantities and runs against each other, numbers under colours.
//
// Not for what the quantities are (report_page.hpp).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "trainer/html.hpp"
#include "trainer/report_run.hpp"

namespace nibble {

struct ComparisonRow {
  std::string name;
  std::vector<std::string> values{};  ///< one for each run; empty: it has none
};

/// A column for each run where they are few, else a row for each; the runs' names stand beside their colours.
void comparison_table(Html& html, std::span<const ReportRun> runs, std::span<const ComparisonRow> rows);

/// Numbers by row and column; one that is not finite is not there.
struct HeatTable {
  std::vector<std::string> columns{}, rows{};
  std::vector<std::vector<double>> values{};  ///< one for each row, of one for each column
};

/// The larger a number among those of the table, the more colour behind it.
void heat_table(Html& html, const HeatTable& table);

}  // namespace nibble
