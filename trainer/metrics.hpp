// metrics.jsonl, metrics.csv and TensorBoard's event file in a run's directory: one row per step, for people,
// spreadsheets and fits.
//
// All hold the same rows. A value that is not finite is null in JSON and empty in CSV, as is a column that a row does
// not have; both readers then see "no number" instead of failing. Rows are appended and handed to the operating system
// line by line. metrics.jsonl is the original: on resume the others are made anew from it.
// Not for the live display (trainer/progress.hpp) and not for what a run needs to continue (checkpoints).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "trainer/appended_file.hpp"
#include "trainer/tensorboard.hpp"

namespace nibble {

using MetricValue = std::variant<int64_t, double, bool, std::string>;

/// Named values in the order in which they are written; the first is "step".
using MetricRow = std::vector<std::pair<std::string, MetricValue>>;

class MetricsWriter {
 public:
  /// A new run: creates the files. `columns` are the CSV's, "step" first.
  /// Throws Error{configuration} if the directory already has metrics, Error{resource} if it cannot be written.
  static MetricsWriter create(const std::filesystem::path& directory, std::vector<std::string> columns);

  /// A resumed run: keeps the rows before `next_step`, the first step that will be written again, and drops the others
  /// and a torn last line, so that each step ends up with exactly one row. Each file is replaced as a whole; one
  /// that is missing begins anew, for metrics are no part of what a run needs.
  /// Columns of the earlier rows that are not in `columns` are kept behind them.
  /// Throws Error{checkpoint} if metrics.jsonl is damaged before its last line, Error{resource} as above.
  static MetricsWriter resume(const std::filesystem::path& directory, std::vector<std::string> columns,
                              int64_t next_step);

  /// Appends one row to each file. Throws Error{internal} for a row without a leading step, a repeated or undeclared
  /// column; Error{resource} when the disk is full.
  void write(const MetricRow& row);

  /// The rows so far survive a power cut after this; a checkpoint counts on the rows before it. Throws Error{resource}.
  void sync();

 private:
  MetricsWriter(const std::filesystem::path& directory, std::vector<std::string> columns,
                std::span<const MetricJson> rows);

  std::vector<std::string> columns_;
  AppendedFile json_lines_, csv_;
  EventFile events_;
};

}  // namespace nibble
