// Rows of a metrics.jsonl, as they were written: for a resumed run and for reports.
//
// A row is one flat JSON object with a step; null stands for a number that was not finite. The last line may be torn:
// the file grows while it is read, or a kill cut it.
// Not for: writing metrics (metrics.hpp).
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

namespace nibble {

/// Column names to values, in the order in which they were written.
using MetricJson = nlohmann::ordered_json;

std::filesystem::path metrics_path(const std::filesystem::path& run);

/// Calls `take` for each complete row, from the first to the last. Throws Error{checkpoint}: a file that is missing or
/// cannot be read, a line before the last that is no row.
void read_metrics(const std::filesystem::path& file, const std::function<void(MetricJson&&)>& take);

/// The step of a row that `read_metrics` gave.
int64_t step_of(const MetricJson& row);

}  // namespace nibble
