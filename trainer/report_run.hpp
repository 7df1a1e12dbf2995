// One run as a report sees it: its metrics by column, its configuration, its tuning; what is missing is said.
//
// Not for: the page (report_page.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/settings.hpp"

namespace nibble {

/// Stands in a column where a row has no number.
inline constexpr double no_number = std::numeric_limits<double>::quiet_NaN();

/// The columns of a metrics.jsonl, one entry for each row.
class MetricTable {
 public:
  /// Throws as read_metrics does. Truth values become 0 and 1, texts no numbers.
  explicit MetricTable(const std::filesystem::path& file);

  size_t rows() const { return rows_; }
  /// In the order in which they first appear.
  const std::vector<std::string>& names() const { return names_; }
  /// Empty where there is none of that name.
  const std::vector<double>& operator[](const std::string& name) const;
  /// The finite numbers of a column.
  std::vector<double> numbers(const std::string& name) const;
  /// The sum of a column's finite numbers; none where it has not one.
  std::optional<double> sum(const std::string& name) const;

 private:
  size_t rows_ = 0;
  std::vector<std::string> names_;
  std::map<std::string, std::vector<double>> columns_;
};

struct ReportRun {
  std::filesystem::path directory;
  std::string name;  ///< shown on the page
  MetricTable metrics;
  std::string config_text;           ///< config.yaml
  std::optional<Settings> settings;  ///< what stands in it, where this Nibble understands it
  /// tuning.json, nested names joined by dots.
  std::vector<std::pair<std::string, std::string>> tuning;
  std::vector<std::string> problems;  ///< for the reader: what could not be read, and why
};

/// Reads RUN/metrics.jsonl, config.yaml and tuning.json. The last two may be missing or damaged: that is a problem, no
/// error. Throws Error{checkpoint} as read_metrics does.
ReportRun read_run(const std::filesystem::path& directory, const std::string& name);

}  // namespace nibble
