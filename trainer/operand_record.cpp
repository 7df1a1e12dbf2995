#include "trainer/operand_record.hpp"

#include <string>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/metrics_reader.hpp"

namespace nibble {
namespace {

std::string line_of(int64_t step, const OperandStatistic& statistic) {
  MetricJson row = {{"step", step},
                    {"layer", statistic.place.layer},
                    {"product", statistic.place.product},
                    {"operand", statistic.place.operand}};
  for (const OperandMeasure& measure : operand_measures) row[measure.key] = (statistic.*measure.value)();
  return row.dump() + '\n';
}

}  // namespace

std::filesystem::path operand_record_path(const std::filesystem::path& run) { return run / "operands.jsonl"; }

OperandRecord::OperandRecord(const std::filesystem::path& run, int64_t every, int64_t next_step) : every_(every) {
  const std::filesystem::path file = operand_record_path(run);
  if (exists(file, ErrorKind::checkpoint)) {
    std::string kept;
    read_metrics(file, [&](MetricJson&& row) {
      if (step_of(row) < next_step) kept += row.dump() + '\n';
    });
    write_file_atomically(file, kept);
  }
  if (every_ > 0) file_.emplace(file);
}

OperandObserver* OperandRecord::observer(int64_t step) {
  return every_ > 0 && step % every_ == 0 ? &observed_ : nullptr;
}

void OperandRecord::write(int64_t step) {
  std::string lines;
  for (const OperandStatistic& statistic : observed_.all()) lines += line_of(step, statistic);
  if (lines.empty()) return;
  file_->append(lines);
  observed_ = {};
}

void OperandRecord::sync() {
  if (file_) file_->sync();
}

}  // namespace nibble
