#include "trainer/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/metrics_reader.hpp"

namespace nibble {
namespace {

std::filesystem::path csv_path(const std::filesystem::path& directory) { return directory / "metrics.csv"; }

/// RFC 4180: a text with a comma, a quote or a line break stands in quotes, its quotes doubled.
std::string csv_text(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string csv_cell(const MetricJson& value) {
  if (value.is_null()) return "";
  return value.is_string() ? csv_text(value.get<std::string>()) : value.dump();
}

std::string csv_header(const std::vector<std::string>& columns) {
  std::string line;
  for (const std::string& column : columns) line += (line.empty() ? "" : ",") + csv_text(column);
  return line + '\n';
}

std::string csv_line(const std::vector<std::string>& columns, const MetricJson& row) {
  std::string line;
  for (const std::string& column : columns) {
    if (&column != &columns.front()) line += ',';
    const auto value = row.find(column);
    if (value != row.end()) line += csv_cell(*value);
  }
  return line + '\n';
}

std::string json_line(const MetricJson& row) {
  // Texts come from outside; a stray byte must not end the run.
  return row.dump(-1, ' ', false, MetricJson::error_handler_t::replace) + '\n';
}

MetricJson to_json(const MetricValue& value) {
  if (const double* number = std::get_if<double>(&value); number && !std::isfinite(*number)) return nullptr;
  return std::visit([](const auto& v) { return MetricJson(v); }, value);
}

[[noreturn]] void refuse_row(const std::string& what, const std::string& seen) {
  throw Error({.kind = ErrorKind::internal, .what = what, .where = "metrics", .seen = seen});
}

/// The rows of a run before `next_step`.
std::vector<MetricJson> kept_rows(const std::filesystem::path& run, int64_t next_step) {
  std::vector<MetricJson> rows;
  if (!exists(metrics_path(run), ErrorKind::checkpoint)) return rows;
  read_metrics(metrics_path(run), [&](MetricJson&& row) {
    if (step_of(row) < next_step) rows.push_back(std::move(row));
  });
  return rows;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& directory, std::vector<std::string> columns,
                             std::span<const MetricJson> rows)
    : columns_(std::move(columns)),
      json_lines_(metrics_path(directory)),
      csv_(csv_path(directory)),
      events_(EventFile::create(directory, rows)) {}

MetricsWriter MetricsWriter::create(const std::filesystem::path& directory, std::vector<std::string> columns) {
  const std::filesystem::path file = metrics_path(directory);
  if (exists(file, ErrorKind::resource))
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the run's directory already holds a run",
                 .where = "run.directory",
                 .seen = file.string(),
                 .allowed = "a directory without metrics.jsonl",
                 .next = "go on with --resume, or choose another run.directory"});
  write_file_atomically(csv_path(directory), csv_header(columns));
  write_file_atomically(file, "");
  return MetricsWriter(directory, std::move(columns), {});
}

MetricsWriter MetricsWriter::resume(const std::filesystem::path& directory, std::vector<std::string> columns,
                                    int64_t next_step) {
  const std::vector<MetricJson> rows = kept_rows(directory, next_step);
  for (const MetricJson& row : rows)
    for (const auto& [column, value] : row.items())
      if (std::ranges::find(columns, column) == columns.end()) columns.push_back(column);
  std::string json_lines, csv = csv_header(columns);
  for (const MetricJson& row : rows) {
    json_lines += json_line(row);
    csv += csv_line(columns, row);
  }
  write_file_atomically(metrics_path(directory), json_lines);
  write_file_atomically(csv_path(directory), csv);
  return MetricsWriter(directory, std::move(columns), rows);
}

void MetricsWriter::write(const MetricRow& row) {
  if (row.empty() || row[0].first != "step" || !std::holds_alternative<int64_t>(row[0].second))
    refuse_row("a row without a leading step", row.empty() ? "no values" : row[0].first);
  MetricJson json = MetricJson::object();
  for (const auto& [column, value] : row) {
    if (std::ranges::find(columns_, column) == columns_.end()) refuse_row("an undeclared column", column);
    if (json.contains(column)) refuse_row("a column twice in one row", column);
    json[column] = to_json(value);
  }
  json_lines_.append(json_line(json));
  csv_.append(csv_line(columns_, json));
  events_.append(json);
}

void MetricsWriter::sync() {
  json_lines_.sync();
  csv_.sync();
  events_.sync();
}

}  // namespace nibble
