#include "trainer/report_run.hpp"

#include <cmath>

#include "data/json.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/metrics_reader.hpp"
#include "trainer/operand_record.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

void flatten(const nlohmann::json& value, const std::string& name,
             std::vector<std::pair<std::string, std::string>>& out) {
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items()) flatten(inner, name.empty() ? key : name + "." + key, out);
    return;
  }
  out.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
}

/// Calls `read`; an Error of it is noted instead of thrown.
template <class Read>
void note_problem(ReportRun& run, Read read) {
  try {
    read();
  } catch (const Error& error) {
    const ErrorDetail& detail = error.detail();
    run.problems.push_back(detail.where + ": " + detail.what + (detail.seen.empty() ? "" : " (" + detail.seen + ")"));
  }
}

}  // namespace

MetricTable::MetricTable(const fs::path& file) {
  read_metrics(file, [&](MetricJson&& row) {
    for (const auto& [name, value] : row.items()) {
      const auto [column, added] = columns_.try_emplace(name);
      if (added) names_.push_back(name);
      column->second.resize(rows_, no_number);
      column->second.push_back(number_of(value));
    }
    ++rows_;
  });
  for (auto& [name, values] : columns_) values.resize(rows_, no_number);
}

const std::vector<double>& MetricTable::operator[](const std::string& name) const {
  static const std::vector<double> none;
  const auto found = columns_.find(name);
  return found == columns_.end() ? none : found->second;
}

std::vector<double> MetricTable::numbers(const std::string& name) const {
  std::vector<double> finite;
  for (const double value : (*this)[name])
    if (std::isfinite(value)) finite.push_back(value);
  return finite;
}

std::optional<double> MetricTable::sum(const std::string& name) const {
  std::optional<double> total;
  for (const double value : numbers(name)) total = total.value_or(0) + value;
  return total;
}

ReportRun read_run(const fs::path& directory, const std::string& name) {
  ReportRun run{.directory = directory,
                .name = name,
                .metrics = MetricTable(metrics_path(directory)),
                .config_text = {},
                .settings = {},
                .tuning = {},
                .operands = {},
                .problems = {}};
  note_problem(run, [&] {
    const fs::path file = directory / "config.yaml";
    run.config_text = read_file(file, ErrorKind::configuration);
    run.settings = parse_settings(run.config_text, file.string());
  });
  note_problem(run, [&] {
    const fs::path file = directory / "tuning.json";
    flatten(parse_json(read_file(file, ErrorKind::checkpoint), file.string(), ErrorKind::checkpoint), "", run.tuning);
  });
  note_problem(run, [&] {
    const fs::path file = operand_record_path(directory);
    if (exists(file, ErrorKind::checkpoint))
      read_operand_rows(file, [&](OperandRow&& row) { run.operands.push_back(std::move(row)); });
  });
  return run;
}

}  // namespace nibble
