#include "trainer/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

std::filesystem::path json_lines_path(const std::filesystem::path& directory) { return directory / "metrics.jsonl"; }
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

std::string csv_cell(const Json& value) {
  if (value.is_null()) return "";
  return value.is_string() ? csv_text(value.get<std::string>()) : value.dump();
}

std::string csv_header(const std::vector<std::string>& columns) {
  std::string line;
  for (const std::string& column : columns) line += (line.empty() ? "" : ",") + csv_text(column);
  return line + '\n';
}

std::string csv_line(const std::vector<std::string>& columns, const Json& row) {
  std::string line;
  for (const std::string& column : columns) {
    if (&column != &columns.front()) line += ',';
    const auto value = row.find(column);
    if (value != row.end()) line += csv_cell(*value);
  }
  return line + '\n';
}

std::string json_line(const Json& row) {
  // Texts come from outside; a stray byte must not end the run.
  return row.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

Json to_json(const MetricValue& value) {
  if (const double* number = std::get_if<double>(&value); number && !std::isfinite(*number)) return nullptr;
  return std::visit([](const auto& v) { return Json(v); }, value);
}

[[noreturn]] void refuse_row(const std::string& what, const std::string& seen) {
  throw Error({.kind = ErrorKind::internal, .what = what, .where = "metrics", .seen = seen});
}

/// The complete rows of a metrics file before `next_step`; the last line may be torn.
std::vector<Json> kept_rows(const std::filesystem::path& file, int64_t next_step) {
  std::vector<Json> rows;
  if (!exists(file, ErrorKind::checkpoint)) return rows;
  const std::string text = read_file(file, ErrorKind::checkpoint);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    bool flat = true;  // nlohmann-json writes nested values by recursion, which a file must not drive
    const auto stay_flat = [&](int depth, Json::parse_event_t event, Json&) {
      flat = flat &&
             (depth == 0 || (event != Json::parse_event_t::object_start && event != Json::parse_event_t::array_start));
      return flat;
    };
    Json row = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                           text.begin() + static_cast<std::ptrdiff_t>(end), stay_flat, false);
    ++number;
    const bool last = end + 1 >= text.size();
    const bool complete = flat && row.is_object() && row.contains("step") && row["step"].is_number_integer();
    if (!complete && !last)
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "a damaged line among the run's metrics",
                   .where = fmt::format("{}:{}", file.string(), number),
                   .seen = text.substr(begin, std::min<size_t>(end - begin, 80)),
                   .allowed = "a JSON object with a step, of numbers and texts",
                   .next = "repair or delete this line, then resume again"});
    if (complete && row["step"].get<int64_t>() < next_step) rows.push_back(std::move(row));
    begin = end + 1;
  }
  return rows;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& directory, std::vector<std::string> columns)
    : columns_(std::move(columns)), json_lines_(json_lines_path(directory)), csv_(csv_path(directory)) {}

MetricsWriter MetricsWriter::create(const std::filesystem::path& directory, std::vector<std::string> columns) {
  const std::filesystem::path file = json_lines_path(directory);
  if (exists(file, ErrorKind::resource))
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the run's directory already holds a run",
                 .where = "run.directory",
                 .seen = file.string(),
                 .allowed = "a directory without metrics.jsonl",
                 .next = "go on with --resume, or choose another run.directory"});
  write_file_atomically(csv_path(directory), csv_header(columns));
  write_file_atomically(file, "");
  return MetricsWriter(directory, std::move(columns));
}

MetricsWriter MetricsWriter::resume(const std::filesystem::path& directory, std::vector<std::string> columns,
                                    int64_t next_step) {
  const std::vector<Json> rows = kept_rows(json_lines_path(directory), next_step);
  for (const Json& row : rows)
    for (const auto& [column, value] : row.items())
      if (std::ranges::find(columns, column) == columns.end()) columns.push_back(column);
  std::string json_lines, csv = csv_header(columns);
  for (const Json& row : rows) {
    json_lines += json_line(row);
    csv += csv_line(columns, row);
  }
  write_file_atomically(json_lines_path(directory), json_lines);
  write_file_atomically(csv_path(directory), csv);
  return MetricsWriter(directory, std::move(columns));
}

void MetricsWriter::write(const MetricRow& row) {
  if (row.empty() || row[0].first != "step" || !std::holds_alternative<int64_t>(row[0].second))
    refuse_row("a row without a leading step", row.empty() ? "no values" : row[0].first);
  Json json = Json::object();
  for (const auto& [column, value] : row) {
    if (std::ranges::find(columns_, column) == columns_.end()) refuse_row("an undeclared column", column);
    if (json.contains(column)) refuse_row("a column twice in one row", column);
    json[column] = to_json(value);
  }
  json_lines_.append(json_line(json));
  csv_.append(csv_line(columns_, json));
}

void MetricsWriter::sync() {
  json_lines_.sync();
  csv_.sync();
}

}  // namespace nibble
