// One run as a report sees it: its metrics by column, its configuration, its tuning; what is missing is said.
//
// Not for: the page (report_page.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/operand_rows.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// The columns of a metrics.jsonl, one entry for each row; no_number where a row has none.
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
  std::vector<OperandRow> operands;   ///< of operands.jsonl, which few runs have
  std::vector<std::string> problems;  ///< for the reader: what could not be read, and why
};

/// Reads RUN/metrics.jsonl, config.yaml, tuning.json and, if there is one, operands.jsonl. All but the first may be
/// damaged, the configuration and the tuning missing: that is a problem, no error. Throws Error{checkpoint} as
/// read_metrics does.
ReportRun read_run(const std::filesystem::path& directory, const std::string& name);

}  // namespace nibble
