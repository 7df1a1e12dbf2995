#include "trainer/tensorboard.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>

#include "comm/host_name.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/metric_columns.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view name_begin = "events.out.tfevents.";  // TensorBoard looks for "tfevents" in a name
constexpr std::string_view name_end = ".nibble";                 // none but our own are ever removed

constexpr std::array<uint32_t, 256> crc_table = [] {
  constexpr uint32_t reflected_polynomial = 0x82F63B78;
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? reflected_polynomial : 0);
    table[byte] = crc;
  }
  return table;
}();

/// So that the CRC of data which hold CRCs themselves stays good (TensorFlow, lib/hash/crc32c.h).
uint32_t masked_crc32c(std::string_view bytes) {
  constexpr uint32_t mask_delta = 0xA282EAD8;
  return std::rotr(crc32c(bytes), 15) + mask_delta;
}

template <class Integer>
void append_little_endian(std::string& out, Integer value) {
  for (size_t byte = 0; byte < sizeof(Integer); ++byte) out += static_cast<char>(value >> (8 * byte));
}

// Protocol Buffers' wire format: a key of field number and wire type, then the value. Fields stand in the order of
// their numbers and zeros are left out, as the official encoders do; readers take missing numbers for zero.

enum class WireType { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void append_key(std::string& out, int field, WireType type) {
  append_varint(out, static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(type));
}

void append_bytes(std::string& out, int field, std::string_view bytes) {
  append_key(out, field, WireType::bytes);
  append_varint(out, bytes.size());
  out += bytes;
}

/// An Event up to its contents: wall_time = 1 (double), step = 2 (int64).
std::string event_head(double wall_time, int64_t step) {
  std::string event;
  append_key(event, 1, WireType::fixed64);
  append_little_endian(event, std::bit_cast<uint64_t>(wall_time));
  if (step != 0) {
    append_key(event, 2, WireType::varint);
    append_varint(event, static_cast<uint64_t>(step));
  }
  return event;
}

/// Summary.Value: tag = 1 (string), simple_value = 2 (float).
std::string summary_value(std::string_view tag, float value) {
  std::string message;
  append_bytes(message, 1, tag);
  append_key(message, 2, WireType::fixed32);
  append_little_endian(message, std::bit_cast<uint32_t>(value));
  return message;
}

double time_of(const MetricJson& row, double otherwise) {
  const auto time = row.find("time");
  return time != row.end() && time->is_number() ? time->get<double>() : otherwise;
}

std::vector<fs::path> event_files(const fs::path& run) {
  std::vector<fs::path> files;
  for (const fs::path& entry : list_directory(run, ErrorKind::resource)) {
    const std::string name = entry.filename().string();
    if (name.starts_with(name_begin) && name.ends_with(name_end)) files.push_back(entry);
  }
  return files;
}

/// The seconds in a name that EventFile gave.
int64_t seconds_in(const fs::path& file) {
  const std::string name = file.filename().string();
  int64_t seconds = 0;
  std::from_chars(name.data() + name_begin.size(), name.data() + name.size(), seconds);
  return seconds;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~uint32_t{0};
  for (const char byte : bytes) crc = (crc >> 8) ^ crc_table[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  return ~crc;
}

std::string tf_record(std::string_view data) {
  std::string record;
  append_little_endian(record, static_cast<uint64_t>(data.size()));
  append_little_endian(record, masked_crc32c(record));
  record += data;
  append_little_endian(record, masked_crc32c(data));
  return record;
}

std::string begin_events(double wall_time) {
  std::string version = event_head(wall_time, 0);
  append_bytes(version, 3, "brain.Event:2");  // file_version
  std::string session;
  append_key(session, 1, WireType::varint);  // SessionLog.status
  append_varint(session, 1);                 // START: forget events from this step on
  std::string start = event_head(wall_time, 0);
  append_bytes(start, 7, session);  // session_log
  return tf_record(version) + tf_record(start);
}

std::string metrics_event(const MetricJson& row, double wall_time) {
  std::string summary;
  for (const auto& [column, value] : row.items()) {
    const std::string tag = metric_tag(column);
    if (tag.empty() || value.is_string()) continue;
    append_bytes(summary, 1, summary_value(tag, static_cast<float>(number_of(value))));
  }
  std::string event = event_head(time_of(row, wall_time), step_of(row));
  append_bytes(event, 5, summary);
  return tf_record(event);
}

EventFile EventFile::create(const fs::path& run, std::span<const MetricJson> rows) {
  const std::vector<fs::path> older = event_files(run);
  const double now = wall_time();
  auto seconds = static_cast<int64_t>(now);
  for (const fs::path& file : older) seconds = std::max(seconds, seconds_in(file) + 1);
  // TensorBoard orders runs by their first event.
  std::string events = begin_events(rows.empty() ? now : time_of(rows.front(), now));
  for (const MetricJson& row : rows) events += metrics_event(row, now);
  const fs::path file = run / fmt::format("{}{:010}.{}{}", name_begin, seconds, host_name(), name_end);
  write_file_atomically(file, events);
  // A TensorBoard without its data server turns to the next file only while the one that it reads is there, so the
  // newest of the older ones stays, empty. Should this fail, TensorBoard forgets what the file holds.
  for (const fs::path& old : older) {
    std::error_code ignored;
    if (fs::is_empty(old, ignored)) fs::remove(old, ignored);
    else fs::resize_file(old, 0, ignored);
  }
  return EventFile(file);
}

void EventFile::append(const MetricJson& row) { file_.append(metrics_event(row, wall_time())); }

}  // namespace nibble
