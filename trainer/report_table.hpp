// The table of a report: a row for each quantity, a column for each run.
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

/// The runs' names stand above in their colours.
void comparison_table(Html& html, std::span<const ReportRun> runs, std::span<const ComparisonRow> rows);

}  // namespace nibble
