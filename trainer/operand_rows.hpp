// Rows of a run's operands.jsonl, as a report sees them.
//
// Not for: writing them (operand_record.hpp), the page (report_operands.hpp).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "trainer/operand_statistics.hpp"

namespace nibble {

/// What a linear layer multiplies: products and operands as OperandPlace names them, in the order of a step.
struct OperandKind {
  const char *product, *operand;

  std::string title() const { return operand_title({.layer = {}, .product = product, .operand = operand}); }
};
inline constexpr std::array<OperandKind, 6> operand_kinds = {
    {{"y", "x"}, {"y", "w"}, {"dx", "dy"}, {"dx", "w"}, {"dw", "dy"}, {"dw", "x"}}};

struct OperandRow {
  int64_t step = 0;
  std::string layer;
  size_t kind = 0;                                     ///< in operand_kinds
  std::array<double, operand_measures.size()> values;  ///< of operand_measures; no_number where there is none
};

/// Calls `take` for each whole row, from the first to the last. A line that is none, such as the last one of a run that
/// was killed, keeps no row from being read. Throws Error{checkpoint}: a file that is missing or cannot be read; behind
/// the last row: how many lines were left out, and the first of them.
void read_operand_rows(const std::filesystem::path& file, const std::function<void(OperandRow&&)>& take);

}  // namespace nibble
