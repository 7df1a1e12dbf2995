// In what the runs of a report differ: settings, tuning and versions; and the complete configuration of each.
//
// Not for telling whether a run may be resumed (checkpoint_tuning.hpp, settings_output.hpp).
#pragma once

#include <span>
#include <vector>

#include "trainer/html.hpp"
#include "trainer/report_run.hpp"
#include "trainer/report_table.hpp"

namespace nibble {

/// A row for each setting that has not the same value in all runs whose configuration can be read, in the order of the
/// settings table; run.directory, which always differs, is left out.
std::vector<ComparisonRow> differing_settings(std::span<const ReportRun> runs);

/// The same for tuning and versions, as tuning.json names them.
std::vector<ComparisonRow> differing_tuning(std::span<const ReportRun> runs);

/// Both as tables; nothing for one run.
void differences(Html& html, std::span<const ReportRun> runs);

/// Every run's config.yaml and tuning, folded.
void configurations(Html& html, std::span<const ReportRun> runs);

}  // namespace nibble
