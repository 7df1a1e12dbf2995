#include "trainer/operand_rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "tensor/error.hpp"
#include "trainer/metrics_reader.hpp"

namespace nibble {
namespace {

/// A text of the row; empty where it has none of that name.
std::string text_of(const MetricJson& row, const char* name) {
  const auto found = row.find(name);
  return found != row.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::optional<OperandRow> operand_row(const MetricJson& row) {
  if (row.is_null()) return std::nullopt;
  OperandRow operand{.step = step_of(row), .layer = text_of(row, "layer"), .values = {}};
  const auto kind = std::ranges::find_if(operand_kinds, [&](const OperandKind& known) {
    return known.product == text_of(row, "product") && known.operand == text_of(row, "operand");
  });
  if (operand.layer.empty() || kind == operand_kinds.end()) return std::nullopt;
  operand.kind = static_cast<size_t>(kind - operand_kinds.begin());
  for (size_t i = 0; i < operand_measures.size(); ++i) {
    const auto value = row.find(operand_measures[i].key);
    operand.values[i] = value == row.end() ? no_number : number_of(*value);
  }
  return operand;
}

}  // namespace

void read_operand_rows(const std::filesystem::path& file, const std::function<void(OperandRow&&)>& take) {
  int64_t left_out = 0;
  std::string where, seen;  // of the first line that was left out
  read_metric_lines(file, [&](MetricLine&& line) {
    if (std::optional<OperandRow> row = operand_row(line.row)) {
      take(std::move(*row));
    } else if (left_out++ == 0) {
      where = fmt::format("{}:{}", file.string(), line.number);
      seen = line.text.substr(0, 80);
    }
  });
  if (left_out > 0)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = left_out == 1 ? "this line is no whole record of an operand and was left out"
                                       : fmt::format("{} lines are no whole records of an operand and were left out; "
                                                     "this is the first",
                                                     left_out),
                 .where = where,
                 .seen = seen,
                 .allowed = "a JSON object with step, layer, product and operand",
                 .next = "nothing, where the run was killed while it wrote its last line; else repair the line"});
}

}  // namespace nibble
