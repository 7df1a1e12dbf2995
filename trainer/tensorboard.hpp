// TensorBoard's event file beside metrics.jsonl: each number of each row under its tag (metric_columns.hpp).
//
// The file is a sequence of TFRecords (TensorFlow, lib/io/record_writer.h), each holding an Event message (TensorFlow,
// core/util/event.proto) in Protocol Buffers' wire format; the few fields that curves need are encoded here.
// metrics.jsonl is the original: a run that starts or resumes makes the event file anew, so that each step stands in it
// once. A torn last record is passed over by readers.
// Not for: reading event files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/appended_file.hpp"
#include "trainer/metrics_reader.hpp"

namespace nibble {

/// CRC-32C: Castagnoli's polynomial 0x1EDC6F41, reflected, all ones before and after (RFC 3720, section 12.1 and
/// appendix B.4).
uint32_t crc32c(std::string_view bytes);

/// Length, its masked CRC, data, their masked CRC; integers little-endian.
std::string tf_record(std::string_view data);

/// The first two events of a file: its version, and that what other files hold is to be forgotten.
/// `wall_time` is in seconds since 1970.
std::string begin_events(double wall_time);

/// A row as one event. A number that is not finite (null) is NaN, which TensorBoard marks on the curve; texts and
/// columns without a tag are left out; values are rounded to fp32, in which TensorBoard keeps them. The event's time is
/// the row's column "time", or `wall_time` where it has none.
std::string metrics_event(const MetricJson& row, double wall_time);

class EventFile {
 public:
  /// Writes RUN/events.out.tfevents.SECONDS.HOST.nibble with these rows as a whole, then removes the run's older files
  /// of that kind. The new name sorts behind theirs: a TensorBoard that is watching turns to it and forgets them.
  /// Throws Error{resource}.
  static EventFile create(const std::filesystem::path& run, std::span<const MetricJson> rows);

  /// Throws Error{resource} when the disk is full.
  void append(const MetricJson& row);
  /// As AppendedFile::sync.
  void sync() { file_.sync(); }

 private:
  explicit EventFile(const std::filesystem::path& path) : file_(path) {}

  AppendedFile file_;
};

}  // namespace nibble
