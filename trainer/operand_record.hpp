// operands.jsonl in a run's directory: what quantization did to the operands of each layer, every so many steps.
//
// A row is one operand of one layer in the step's micro-batch 0, which the first rank has on any number of ranks.
// Observing changes no number of the run. Not for what a run needs to continue (checkpoints).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "trainer/appended_file.hpp"
#include "trainer/operand_statistics.hpp"

namespace nibble {

std::filesystem::path operand_record_path(const std::filesystem::path& run);

class OperandRecord {
 public:
  /// Records steps that are multiples of `every`; 0: none. Rows of an earlier part of the run are kept before
  /// `next_step`, the first that will be run again; the file is then replaced as a whole.
  /// Throws Error{checkpoint} if it is damaged before its last line, Error{resource} if it cannot be written.
  OperandRecord(const std::filesystem::path& run, int64_t every, int64_t next_step);

  /// What observes step `step`, counted from 1; null where it is not recorded.
  OperandObserver* observer(int64_t step);
  /// Appends what was observed since. Throws Error{resource} when the disk is full.
  void write(int64_t step);
  /// The rows so far survive a power cut after this. Throws Error{resource}.
  void sync();

 private:
  int64_t every_;
  std::optional<AppendedFile> file_;
  OperandStatistics observed_;
};

}  // namespace nibble
