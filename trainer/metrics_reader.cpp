#include "trainer/metrics_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "tensor/error.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

/// The row in a line; null where it is none.
MetricJson parse_row(std::string_view line) {
  bool flat = true;  // nlohmann-json writes nested values by recursion, which a file must not drive
  const auto stay_flat = [&](int depth, MetricJson::parse_event_t event, MetricJson&) {
    flat = flat && (depth == 0 || (event != MetricJson::parse_event_t::object_start &&
                                   event != MetricJson::parse_event_t::array_start));
    return flat;
  };
  MetricJson row = MetricJson::parse(line.begin(), line.end(), stay_flat, false);
  if (!flat || !row.is_object() || !row.contains("step") || !row["step"].is_number_integer()) return nullptr;
  return row;
}

}  // namespace

std::filesystem::path metrics_path(const std::filesystem::path& run) { return run / "metrics.jsonl"; }

void read_metric_lines(const std::filesystem::path& file, const std::function<void(MetricLine&&)>& take) {
  const std::string text = read_file(file, ErrorKind::checkpoint);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    take({.number = ++number, .text = line, .row = parse_row(line), .last = begin >= text.size()});
  }
}

void read_metrics(const std::filesystem::path& file, const std::function<void(MetricJson&&)>& take) {
  read_metric_lines(file, [&](MetricLine&& line) {
    if (!line.row.is_null()) {
      take(std::move(line.row));
    } else if (!line.last) {
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "a damaged line among the run's metrics",
                   .where = fmt::format("{}:{}", file.string(), line.number),
                   .seen = std::string(line.text.substr(0, 80)),
                   .allowed = "a JSON object with a step, of numbers and texts",
                   .next = "repair or delete this line, then try again"});
    }
  });
}

double number_of(const MetricJson& value) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  return value.is_number() ? value.get<double>() : no_number;
}

int64_t step_of(const MetricJson& row) { return row.at("step").get<int64_t>(); }

}  // namespace nibble
