// What quantization did to the operands of each layer, over a run and at its last record.
//
// Not for: reading the record (operand_rows.hpp), drawing figures (report_figure.hpp).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "trainer/html.hpp"
#include "trainer/report_figure.hpp"
#include "trainer/report_run.hpp"
#include "trainer/report_table.hpp"

namespace nibble {

/// A curve for each kind of operand that has numbers of this measure (an index into operand_measures), over steps: the
/// median over the layers, with the least and the largest as its band. The kind is its colour.
std::vector<Curve> operand_curves(std::span<const OperandRow> rows, size_t measure);

/// Layers down, kinds of operands across, at the last step that was recorded.
HeatTable last_operands(std::span<const OperandRow> rows, size_t measure);

/// Nothing where no run has a record.
void operands(Html& html, std::span<const ReportRun> runs);

}  // namespace nibble
