// What stands on the page of a report: final values, curves, time by phase, operands, differences of the runs.
//
// Not for: reading runs (report_run.hpp), drawing figures (report_figure.hpp), the look (report_style.hpp).
#pragma once

#include <span>
#include <string>

#include "trainer/report_run.hpp"

namespace nibble {

/// A complete HTML document for one run or more. It loads nothing, runs no script, and shows curves by their columns'
/// names: what a run does not have is left out.
std::string report_page(std::span<const ReportRun> runs);

}  // namespace nibble
