// The table of a report: quantities and runs against each other.
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

}  // namespace nibble
