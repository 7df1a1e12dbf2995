#include "trainer/metrics.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "expect_error.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class Metrics : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = fs::path(testing::TempDir()) / (std::string("nibble-metrics-") + test->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string json_lines() const { return read_file(directory_ / "metrics.jsonl", ErrorKind::internal); }
  std::string csv() const { return read_file(directory_ / "metrics.csv", ErrorKind::internal); }
  void append(const std::string& text) const { std::ofstream(directory_ / "metrics.jsonl", std::ios::app) << text; }

  void write_steps(MetricsWriter& metrics, int64_t first, int64_t last) const {
    for (int64_t step = first; step <= last; ++step)
      metrics.write({{"step", step}, {"loss", 4.0 / static_cast<double>(step)}});
  }

  const std::vector<std::string> columns_ = {"step", "loss", "validation_loss", "note", "refused"};
  fs::path directory_;
};

TEST_F(Metrics, OneRowPerStepInBothFiles) {
  MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
  metrics.write({{"step", int64_t{1}}, {"loss", 0.1}, {"refused", false}});
  metrics.write({{"step", int64_t{2}}, {"loss", 1e-7}, {"validation_loss", 2.5}});
  EXPECT_EQ(json_lines(),
            "{\"step\":1,\"loss\":0.1,\"refused\":false}\n{\"step\":2,\"loss\":1e-07,\"validation_loss\":2.5}\n");
  EXPECT_EQ(csv(), "step,loss,validation_loss,note,refused\n1,0.1,,,false\n2,1e-07,2.5,,\n");
}

TEST_F(Metrics, NumbersThatAreNoneAreNullAndEmpty) {
  MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
  metrics.write({{"step", int64_t{1}},
                 {"loss", std::nan("")},
                 {"validation_loss", std::numeric_limits<double>::infinity()},
                 {"refused", true}});
  EXPECT_EQ(json_lines(), "{\"step\":1,\"loss\":null,\"validation_loss\":null,\"refused\":true}\n");
  EXPECT_EQ(csv(), "step,loss,validation_loss,note,refused\n1,,,,true\n");
}

TEST_F(Metrics, TextsAreEscaped) {
  MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
  const std::string note = "a \"quoted\", text\nin two lines";
  metrics.write({{"step", int64_t{1}}, {"note", note}});
  EXPECT_EQ(nlohmann::json::parse(json_lines())["note"], note);
  EXPECT_EQ(csv(), "step,loss,validation_loss,note,refused\n1,,,\"a \"\"quoted\"\", text\nin two lines\",\n");
  metrics.write({{"step", int64_t{2}}, {"note", std::string("\xff")}});  // no UTF-8
  EXPECT_TRUE(nlohmann::json::accept(json_lines().substr(json_lines().find("\n{") + 1)));
}

TEST_F(Metrics, ResumeDropsTheStepsThatComeAgain) {
  {
    MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
    write_steps(metrics, 1, 8);
  }
  append("{\"step\":9,\"lo");  // torn by a kill
  {
    MetricsWriter metrics = MetricsWriter::resume(directory_, columns_, 6);
    write_steps(metrics, 6, 7);
  }
  const std::string resumed_json = json_lines(), resumed_csv = csv();
  fs::remove(directory_ / "metrics.jsonl");
  MetricsWriter reference = MetricsWriter::create(directory_, columns_);
  write_steps(reference, 1, 7);
  EXPECT_EQ(resumed_json, json_lines());
  EXPECT_EQ(resumed_csv, csv());
}

TEST_F(Metrics, ResumeRepairsTheCsv) {
  {
    MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
    write_steps(metrics, 1, 3);
  }
  const std::string complete = csv();
  std::ofstream(directory_ / "metrics.csv") << "1,";
  MetricsWriter::resume(directory_, columns_, 100);
  EXPECT_EQ(csv(), complete);
}

TEST_F(Metrics, ResumeKeepsEarlierColumnsAndNulls) {
  {
    MetricsWriter metrics = MetricsWriter::create(directory_, {"step", "old"});
    metrics.write({{"step", int64_t{1}}, {"old", std::nan("")}});
  }
  MetricsWriter metrics = MetricsWriter::resume(directory_, {"step", "loss"}, 2);
  metrics.write({{"step", int64_t{2}}, {"loss", 1.5}});
  EXPECT_EQ(csv(), "step,loss,old\n1,,\n2,1.5,\n");
  EXPECT_EQ(json_lines(), "{\"step\":1,\"old\":null}\n{\"step\":2,\"loss\":1.5}\n");
}

TEST_F(Metrics, ResumeWithoutMetricsBeginsAnew) {
  MetricsWriter metrics = MetricsWriter::resume(directory_, columns_, 5);
  write_steps(metrics, 5, 5);
  EXPECT_EQ(json_lines(), "{\"step\":5,\"loss\":0.8}\n");
}

TEST_F(Metrics, DamageBeforeTheLastLineIsRefused) {
  {
    MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
    write_steps(metrics, 1, 1);
  }
  append("{\"step\":2,\"lo\n{\"step\":3}\n");
  expect_error(ErrorKind::checkpoint, {"a damaged line", "metrics.jsonl:2"},
               [&] { MetricsWriter::resume(directory_, columns_, 5); });
}

TEST_F(Metrics, NestedValuesAreDamage) {
  MetricsWriter::create(directory_, columns_);
  constexpr size_t levels = 400'000;  // deeper than any stack
  append("{\"step\":1,\"loss\":" + std::string(levels, '[') + std::string(levels, ']') + "}\n{\"step\":2}\n");
  expect_error(ErrorKind::checkpoint, {"a damaged line", "metrics.jsonl:1", "of numbers and texts"},
               [&] { MetricsWriter::resume(directory_, columns_, 5); });
}

TEST_F(Metrics, ANewRunDoesNotOverwriteAnother) {
  MetricsWriter::create(directory_, columns_);
  expect_error(ErrorKind::configuration, {"already holds a run", "--resume"},
               [&] { MetricsWriter::create(directory_, columns_); });
}

TEST_F(Metrics, ADirectoryThatIsNoneIsRefused) {
  expect_error(ErrorKind::resource, {"metrics.csv"}, [&] { MetricsWriter::create(directory_ / "none", columns_); });
}

TEST_F(Metrics, ASyncKeepsTheRowsAndSaysWhenItCannot) {
  MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
  write_steps(metrics, 1, 2);
  metrics.sync();
  write_steps(metrics, 3, 3);
  metrics.sync();
  EXPECT_EQ(std::ranges::count(json_lines(), '\n'), 3);
  AppendedFile device("/dev/full");  // nothing can be flushed to a character device
  expect_error(ErrorKind::resource, {"cannot flush", "/dev/full"}, [&] { device.sync(); });
}

TEST_F(Metrics, AFullDiskIsReported) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  AppendedFile file("/dev/full");
  expect_error(ErrorKind::resource, {"/dev/full", "No space left"}, [&] { file.append("line\n"); });
}

TEST_F(Metrics, RowsMustFitTheColumns) {
  MetricsWriter metrics = MetricsWriter::create(directory_, columns_);
  expect_error(ErrorKind::internal, {"leading step"}, [&] { metrics.write({{"loss", 1.0}}); });
  expect_error(ErrorKind::internal, {"leading step"}, [&] { metrics.write({}); });
  expect_error(ErrorKind::internal, {"undeclared column", "los"}, [&] {
    metrics.write({{"step", int64_t{1}}, {"los", 1.0}});
  });
  expect_error(ErrorKind::internal, {"twice"}, [&] {
    metrics.write({{"step", int64_t{1}}, {"loss", 1.0}, {"loss", 1.0}});
  });
  EXPECT_EQ(json_lines(), "");
}

}  // namespace
}  // namespace nibble
