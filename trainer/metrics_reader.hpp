// Rows of a metrics.jsonl, as they were written: for a resumed run and for reports.
//
// A row is one flat JSON object with a step; null stands for a number that was not finite. The last line may be torn:
// the file grows while it is read, or a kill cut it.
// Not for: writing metrics (metrics.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

namespace nibble {

/// Column names to values, in the order in which they were written.
using MetricJson = nlohmann::ordered_json;

std::filesystem::path metrics_path(const std::filesystem::path& run);

struct MetricLine {
  int64_t number;         ///< counted from 1
  std::string_view text;  ///< valid during the call
  MetricJson row;         ///< null where the text is no complete row
  bool last;
};

/// Calls `take` for each line, from the first to the last. Throws Error{checkpoint}: a file that is missing or cannot
/// be read.
void read_metric_lines(const std::filesystem::path& file, const std::function<void(MetricLine&&)>& take);

/// Calls `take` for each complete row, from the first to the last. Throws Error{checkpoint}: a file that is missing or
/// cannot be read, a line before the last that is no row.
void read_metrics(const std::filesystem::path& file, const std::function<void(MetricJson&&)>& take);

/// Stands where a row has no number.
inline constexpr double no_number = std::numeric_limits<double>::quiet_NaN();

/// Of a value in a row: truth values become 0 and 1, texts no numbers.
double number_of(const MetricJson& value);

/// The step of a row that was read.
int64_t step_of(const MetricJson& row);

}  // namespace nibble
