#include "trainer/tensorboard.hpp"

#include <gtest/gtest.h>

#include "expect_error.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/metrics.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// The contents of the TFRecords in a file.
std::vector<std::string> records_in(const std::string& file) {
  std::vector<std::string> records;
  for (size_t at = 0; at < file.size();) {
    uint64_t length = 0;
    for (size_t byte = 0; byte < 8; ++byte)
      length |= static_cast<uint64_t>(static_cast<unsigned char>(file[at + byte])) << (8 * byte);
    constexpr size_t before = 12, after = 4;
    records.push_back(file.substr(at + before, length));
    EXPECT_EQ(file.substr(at, before + length + after), tf_record(records.back()));
    at += before + length + after;
  }
  return records;
}

const std::vector<MetricJson> rows = {
    {{"step", 0}, {"time", 1700000000.25}, {"tokens", 0}, {"validation_loss", 5.5}},
    {{"step", 1},
     {"time", 1700000001.5},
     {"tokens", 4096},
     {"loss", 5.28125},
     {"gradient_norm", nullptr},
     {"refused", true}},
    {{"step", 300}, {"tokens", 1228800}, {"loss", 0.1}, {"refused", false}, {"note", "a text"}, {"new", -3}},
};

class TensorBoard : public TemporaryDirectoryTest {
 protected:
  std::vector<std::string> event_files() const {
    std::vector<std::string> names;
    for (const std::string& name : names_in(directory_))
      if (name.find("tfevents") != std::string::npos) names.push_back(name);
    return names;
  }
  /// The newest file's; the others are empty.
  std::string events() const {
    const std::vector<std::string> names = event_files();
    for (const std::string& name : names) EXPECT_EQ(fs::file_size(directory_ / name) > 0, name == names.back()) << name;
    return read_file(directory_ / names.at(names.size() - 1), ErrorKind::internal);
  }
  /// The same events at another time of day, which stands in the first nine bytes.
  static std::vector<std::string> without_times(const std::string& file) {
    std::vector<std::string> records = records_in(file);
    for (std::string& record : records) record.erase(0, 9);
    return records;
  }
};

TEST_F(TensorBoard, Crc32cIsThatOfIscsi) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, appendix B.4, as are the next two
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string ascending;
  for (char byte = 0; byte < 32; ++byte) ascending += byte;
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
}

TEST_F(TensorBoard, EventsAreThoseOfTensorBoardsOwnWriter) {
  std::string events = begin_events(1700000000.25);
  for (const MetricJson& row : rows) events += metrics_event(row, 1700000002.75);
  EXPECT_EQ(events, read_file(NIBBLE_TEST_DATA "/trainer/data/events.tfevents", ErrorKind::internal));
}

TEST_F(TensorBoard, AppendedRowsAreAsThoseOfAFileMadeAnew) {
  {
    EventFile file = EventFile::create(directory_, {});
    for (const MetricJson& row : rows) file.append(row);
    file.sync();
  }
  const std::string appended = events();
  EventFile::create(directory_, rows);
  EXPECT_EQ(without_times(events()), without_times(appended));
}

TEST_F(TensorBoard, AResumedRunHasEachStepOnce) {
  const std::vector<std::string> columns = {"step", "loss"};
  const auto write_steps = [&](MetricsWriter& metrics, int64_t first, int64_t last) {
    for (int64_t step = first; step <= last; ++step)
      metrics.write({{"step", step}, {"loss", 4.0 / static_cast<double>(step)}});
  };
  std::string first_name;
  {
    MetricsWriter metrics = MetricsWriter::create(directory_, columns);
    write_steps(metrics, 1, 8);
    first_name = event_files().at(0);
  }
  {
    MetricsWriter metrics = MetricsWriter::resume(directory_, columns, 6);
    write_steps(metrics, 6, 7);
  }
  const std::string resumed = events();
  EXPECT_GT(event_files().back(), first_name) << "a TensorBoard that is watching goes on to names that sort behind";
  fs::remove(directory_ / "metrics.jsonl");
  MetricsWriter reference = MetricsWriter::create(directory_, columns);
  write_steps(reference, 1, 7);
  EXPECT_EQ(without_times(resumed), without_times(events()));
  EXPECT_EQ(records_in(resumed).size(), 2u + 7u);
}

TEST_F(TensorBoard, FilesOfOthersStay) {
  write(directory_ / "events.out.tfevents.1.host.profile-empty", "");
  for (int resumed = 0; resumed < 5; ++resumed) EventFile::create(directory_, rows);
  EXPECT_EQ(event_files().size(), 3u) << "the other's, the newest of ours and an empty one";
}

TEST_F(TensorBoard, ADirectoryThatIsNoneIsRefused) {
  expect_error(ErrorKind::resource, {"tfevents"}, [&] { EventFile::create(directory_ / "none", rows); });
}

}  // namespace
}  // namespace nibble
