#include "trainer/report.hpp"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "expect_error.hpp"
#include "run_program.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/html.hpp"
#include "trainer/report_axis.hpp"
#include "trainer/report_differences.hpp"
#include "trainer/report_figure.hpp"
#include "trainer/report_page.hpp"
#include "trainer/report_phases.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return count;
}

std::vector<std::string> labels(const FigureAxis& axis) {
  std::vector<std::string> labels;
  for (const FigureAxis::Tick& tick : axis.ticks()) labels.push_back(tick.label);
  return labels;
}

using Labels = std::vector<std::string>;

class Report : public TemporaryDirectoryTest {
 protected:
  fs::path make_run(const std::string& name, const std::string& metrics) const {
    const fs::path run = directory_ / name;
    fs::create_directories(run);
    write(run / "metrics.jsonl", metrics);
    return run;
  }
  fs::path make_run(const std::string& name, const std::string& metrics, const std::string& config,
                    const std::string& tuning) const {
    const fs::path run = make_run(name, metrics);
    write(run / "config.yaml", config);
    write(run / "tuning.json", tuning);
    return run;
  }
  std::string page(const std::vector<fs::path>& runs) const {
    const fs::path file = directory_ / "page.html";
    write_report(runs, file);
    return read_file(file, ErrorKind::internal);
  }
  static std::string config(const std::string& rate) {
    return "model: {preset: tiny-byte}\ndata: {train: t.h5, sequence: 64}\nbatch: {tokens: 256}\nsteps: 3\n"
           "optimizer: {learning_rate: " +
           rate + "}\nrun: {directory: runs/" + rate + "}\n";
  }

  const std::string two_steps_ =
      "{\"step\":1,\"tokens\":256,\"loss\":5.5,\"seconds\":0.5,\"seconds_data\":0.1,\"seconds_exchange\":0.3}\n"
      "{\"step\":2,\"tokens\":512,\"loss\":4.25,\"seconds\":0.5,\"seconds_data\":0.1,\"seconds_exchange\":0.3,"
      "\"validation_loss\":4.125}\n";
};

// Parts ---------------------------------------------------------------------------------------------------------------

TEST_F(Report, TextBecomesMarkupInOnePlace) {
  Html html;
  html.open("p", {{"title", "\"<&'"}});
  html.text("a < b & c > 'd' \"e\"\x01\n");
  EXPECT_EQ(html.finish(),
            "<!DOCTYPE html>\n<p title=\"&quot;&lt;&amp;&#39;\">a &lt; b &amp; c &gt; &#39;d&#39; &quot;e&quot;"
            "\xEF\xBF\xBD\n</p>\n");
}

TEST_F(Report, NumbersAreShort) {
  EXPECT_EQ(compact_number(0), "0");
  EXPECT_EQ(compact_number(9999), "9999");
  EXPECT_EQ(compact_number(12500), "12.5k");
  EXPECT_EQ(compact_number(3e6), "3M");
  EXPECT_EQ(compact_number(0.75e9), "750M");
  EXPECT_EQ(compact_number(-2e12), "-2T");
  EXPECT_EQ(compact_number(0.00025), "0.00025");
}

TEST_F(Report, TicksAreRoundAndTellNeighboursApart) {
  EXPECT_EQ(labels(FigureAxis::between(0, 307200)), (Labels{"0", "50k", "100k", "150k", "200k", "250k", "300k"}));
  EXPECT_EQ(labels(FigureAxis::between(0, 0.006)), (Labels{"0", "0.001", "0.002", "0.003", "0.004", "0.005", "0.006"}));
  EXPECT_EQ(labels(FigureAxis::between(2.0, 2.004)), (Labels{"2.000", "2.001", "2.002", "2.003", "2.004"}));
  EXPECT_EQ(labels(FigureAxis::between(-1, 1)), (Labels{"-1.0", "-0.5", "0", "0.5", "1.0"}));
  EXPECT_EQ(labels(FigureAxis::for_magnitudes(std::vector<double>{0.1, 100})), (Labels{"0.1", "1", "10", "100"}));
  for (const std::vector<double>& values :
       {std::vector<double>{}, {7}, {123456, 123457}, {0, 0}, {-1e29, 1e29}, {1e-300, 1e-290}, {5e-324, 1e29}})
    for (const FigureAxis& axis : {FigureAxis::linear(values), FigureAxis::for_magnitudes(values)}) {
      const Labels all = labels(axis);
      EXPECT_GE(all.size(), 2u);
      EXPECT_LE(all.size(), 12u);
      EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), all.size()) << all.front();
      for (const double value : values) {
        EXPECT_GE(axis.position(value), 0);
        EXPECT_LE(axis.position(value), 1);
      }
    }
}

TEST_F(Report, ColumnsKeepEveryExtreme) {
  std::vector<double> x, y;
  for (int i = 0; i < 1000; ++i) {
    x.push_back(i);
    y.push_back(i == 777 ? 50 : i % 2);
  }
  const std::vector<CurveColumn> columns = in_columns({.name = "", .x = x, .y = y}, 0, 1000, 10);
  ASSERT_EQ(columns.size(), 10u);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_DOUBLE_EQ(columns[i].x, 100 * static_cast<double>(i) + 49.5);
    EXPECT_NEAR(columns[i].mean, i == 7 ? 0.99 : 0.5, 1e-12);  // the spike takes the place of a one
    EXPECT_EQ(columns[i].low, 0);
    EXPECT_EQ(columns[i].high, i == 7 ? 50 : 1);
  }
  const std::vector<CurveColumn> few = in_columns({.name = "", .x = {0, 5}, .y = {1, 2}}, 0, 1000, 1000);
  ASSERT_EQ(few.size(), 2u);
  EXPECT_EQ(few[1].low, few[1].high);
}

TEST_F(Report, PhasesAddUpToTheStepAndItsCheckpoint) {
  const fs::path run =
      make_run("run",
               "{\"step\":0,\"validation_loss\":5.0}\n"
               "{\"step\":1,\"seconds\":0.5,\"seconds_data\":0.1,\"seconds_new_phase\":0.3,\"seconds_checkpoint\":0.0,"
               "\"seconds_communication\":9.0}\n"
               "{\"step\":2,\"seconds\":0.7,\"seconds_data\":0.1,\"seconds_new_phase\":0.3,\"seconds_checkpoint\":1.0,"
               "\"seconds_communication\":9.0}\n");
  const std::vector<Phase> phases = phases_of(MetricTable(run / "metrics.jsonl"));
  ASSERT_EQ(phases.size(), 4u);
  EXPECT_EQ(phases[0].name, "data");
  EXPECT_EQ(phases[1].name, "new phase");
  EXPECT_NEAR(phases[2].seconds, 0.5, 1e-12);  // one second in two steps
  EXPECT_EQ(phases[3].name, "other");
  EXPECT_NEAR(phases[3].seconds, (0.5 + 0.7 - 0.8) / 2, 1e-12);
  EXPECT_NE(page({run}).find("communication, beside the others"), std::string::npos);
}

// Pages ---------------------------------------------------------------------------------------------------------------

TEST_F(Report, APageNeedsNothingBesideItself) {
  const fs::path run = make_run("run", two_steps_, config("0.01"), "{\"threads\":2}");
  const std::string text = page({run});
  for (const char* outside : {"://", "<script", "<link", "<img", "@import", "url("})
    EXPECT_EQ(text.find(outside), std::string::npos) << outside;
  for (const char* part : {"default-src &#39;none&#39;", "prefers-color-scheme: dark", "<svg", "4.1250 at step 2",
                           "learning_rate: 0.01", "threads: 2", "Time by phase"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  for (const char* tag : {"html", "body", "section", "figure", "div", "svg", "table", "ul", "details"})
    EXPECT_EQ(count_of(text, std::string("<") + tag + ">") + count_of(text, std::string("<") + tag + " "),
              count_of(text, std::string("</") + tag + ">"))
        << tag;
  EXPECT_EQ(page({run}), text) << "the same runs give the same page";
}

TEST_F(Report, NamesAndSettingsAreNoMarkup) {
  const fs::path run =
      make_run("<script>alert(1)< & \"co\"", two_steps_, "model: {'<script>': 1}\n", "{\"<script>\":\"<b>\"}");
  const std::string text = page({run, make_run("other", two_steps_)});
  EXPECT_EQ(text.find("<script"), std::string::npos);
  EXPECT_EQ(text.find("<b>"), std::string::npos);
  EXPECT_NE(text.find("&lt;script&gt;alert(1)&lt; &amp; &quot;co&quot;"), std::string::npos);
}

TEST_F(Report, RunsWithLittleInThemAreShownAsFarAsTheyGo) {
  const fs::path empty = make_run("empty", ""), torn = make_run("torn", two_steps_ + "{\"step\":3,\"lo");
  const fs::path one = make_run("one", "{\"step\":1,\"tokens\":256,\"loss\":5.5}\n");
  const fs::path nothing = make_run("nothing", "{\"step\":1,\"tokens\":256,\"loss\":null,\"refused\":true}\n");
  const fs::path huge = make_run("huge", "{\"step\":1,\"tokens\":256,\"loss\":1e308,\"gradient_norm\":-1e308}\n");
  const fs::path foreign =
      make_run("foreign", "{\"step\":9223372036854775807,\"tokens\":\"x\",\"loss\":\"x\"}\n", "{}}", "[");
  for (const fs::path& run : {empty, torn, one, nothing, huge, foreign}) {
    const std::string text = page({run});
    EXPECT_NE(text.find("Final values"), std::string::npos) << run;
    EXPECT_EQ(text.find("nan"), std::string::npos) << run;
    EXPECT_EQ(text.find("inf%"), std::string::npos) << run;
    EXPECT_NE(text.find("/config.yaml:"), std::string::npos) << run << ": says nothing of the missing configuration";
  }
  EXPECT_NE(page({empty}).find("empty: no step yet"), std::string::npos);
  EXPECT_EQ(page({empty}).find("<figure"), std::string::npos);
  EXPECT_NE(page({one}).find("<figure"), std::string::npos);
  EXPECT_EQ(page({one}).find("Validation loss</h3>"), std::string::npos);
  EXPECT_EQ(page({nothing}).find("<figure"), std::string::npos);
  EXPECT_NE(page({torn}).find("4.1250 at step 2"), std::string::npos);
  page({empty, torn, one, nothing, huge, foreign});
}

TEST_F(Report, RunsDifferInSettingsAndTuning) {
  const std::vector<ReportRun> runs = {
      read_run(make_run("a", two_steps_, config("0.01"), R"({"threads":2,"versions":{"oneDNN":"2.6.3","fmt":"9"}})"),
               "a"),
      read_run(make_run("b", two_steps_, config("0.02"), R"({"threads":2,"versions":{"oneDNN":"3.1.0","fmt":"9"}})"),
               "b"),
      read_run(make_run("c", two_steps_), "c")};
  const std::vector<ComparisonRow> settings = differing_settings(runs), tuning = differing_tuning(runs);
  ASSERT_EQ(settings.size(), 1u);
  EXPECT_EQ(settings[0].name, "optimizer.learning_rate");
  EXPECT_EQ(settings[0].values, (std::vector<std::string>{"0.01", "0.02", ""}));
  ASSERT_EQ(tuning.size(), 1u);
  EXPECT_EQ(tuning[0].name, "versions.oneDNN");
  EXPECT_EQ(tuning[0].values, (std::vector<std::string>{"2.6.3", "3.1.0", ""}));
  EXPECT_TRUE(runs[0].problems.empty());
  EXPECT_EQ(runs[2].problems.size(), 2u);
}

TEST_F(Report, DamagedMetricsAreRefused) {
  const fs::path run = make_run("run", "{\"step\":1,\n{\"step\":2}\n");
  expect_error(ErrorKind::checkpoint, {"a damaged line", "metrics.jsonl:1"}, [&] { page({run}); });
  expect_error(ErrorKind::checkpoint, {"metrics.jsonl"}, [&] { page({directory_ / "none"}); });
}

TEST_F(Report, ManyRunsStandInRows) {
  std::vector<fs::path> runs;
  for (int i = 0; i < 20; ++i) runs.push_back(make_run("run-" + std::to_string(i), two_steps_));
  const std::string few = page({runs[0], runs[1], runs[2]}), many = page(runs);
  EXPECT_NE(few.find("<tr><th>best validation loss</th>"), std::string::npos);
  EXPECT_EQ(many.find("<tr><th>best validation loss</th>"), std::string::npos);
  EXPECT_EQ(count_of(many, "4.1250 at step 2"), 20u);
  EXPECT_NE(many.find("c3 d2 line"), std::string::npos) << "the twentieth has the fourth colour and the third dashes";
}

// Which runs ----------------------------------------------------------------------------------------------------------

TEST_F(Report, AFolderStandsForTheRunsInIt) {
  for (const char* name : {"runs/run-10", "runs/run-2", "runs/run-1"}) make_run(name, two_steps_);
  fs::create_directories(directory_ / "runs/notes");
  const fs::path runs = directory_ / "runs";
  EXPECT_EQ(find_runs(std::array{runs}), (std::vector<fs::path>{runs / "run-1", runs / "run-2", runs / "run-10"}));
  EXPECT_EQ(find_runs(std::array{runs / "run-2", runs / "run-2/", runs}),
            (std::vector<fs::path>{runs / "run-2", runs / "run-1", runs / "run-10"}));
  expect_error(ErrorKind::configuration, {"no run is in this folder", "notes", "metrics.jsonl"},
               [&] { find_runs(std::array{runs / "notes"}); });
  expect_error(ErrorKind::configuration, {"no such folder", "none"}, [&] { find_runs(std::array{runs / "none"}); });
}

TEST_F(Report, RunsOfOneNameAreToldApart) {
  const std::string text = page({make_run("a/run", two_steps_), make_run("b/run", two_steps_)});
  EXPECT_NE(text.find("a/run</th>"), std::string::npos);
  EXPECT_NE(text.find("b/run</th>"), std::string::npos);
}

TEST_F(Report, TheCommandWritesThePage) {
  make_run("runs/a", two_steps_);
  make_run("runs/b", two_steps_);
  const std::string runs = (directory_ / "runs").string();
  const Ended one = nibble("report '" + runs + "/a'");
  EXPECT_EQ(one.code, 0) << one.output;
  EXPECT_TRUE(fs::exists(directory_ / "runs/a/report.html"));
  const Ended both = nibble("report '" + runs + "' --output '" + (directory_ / "new/page.html").string() + "'");
  EXPECT_EQ(both.code, 0) << both.output;
  expect_said(both, "new/page.html");
  EXPECT_NE(read_file(directory_ / "new/page.html", ErrorKind::internal).find("2 runs"), std::string::npos);
  const Ended none = nibble("report '" + runs + "/c'");
  EXPECT_EQ(none.code, 2);
  expect_said(none, "no such folder");
}

}  // namespace
}  // namespace nibble
