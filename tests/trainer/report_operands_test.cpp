// What a report shows of the operands that a run recorded: its figures by number, and what becomes of damaged lines.
#include "trainer/report_operands.hpp"

#include <fmt/format.h>

#include <cmath>

#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/run_program.hpp"
#include "trainer/operand_record.hpp"
#include "trainer/report.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t relative_error = 0, clipped = 1, underflow = 3;  // in operand_measures
constexpr size_t y_x = 0, dw_dy = 4;                              // in operand_kinds

std::string line(int64_t step, const std::string& layer, const char* product, const char* operand,
                 const std::string& error, double clipped_share = 0, double underflow_share = 0) {
  return fmt::format(R"({{"step":{},"layer":"{}","product":"{}","operand":"{}","relative_squared_error":{},)"
                     R"("clipped":{},"masked":0.0,"underflow":{}}})"
                     "\n",
                     step, layer, product, operand, error, clipped_share, underflow_share);
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return count;
}

class ReportOperands : public TemporaryDirectoryTest {
 protected:
  fs::path make_run(const std::string& name, const std::string& operands) const {
    const fs::path run = directory_ / name;
    fs::create_directories(run);
    write(run / "metrics.jsonl", "{\"step\":1,\"tokens\":256,\"loss\":5.5}\n");
    write(operand_record_path(run), operands);
    return run;
  }
  std::vector<OperandRow> rows(const fs::path& run) const { return read_run(run, "run").operands; }
  std::string page(const std::vector<fs::path>& runs) const {
    const fs::path file = directory_ / "page.html";
    write_report(runs, file);
    return read_file(file, ErrorKind::internal);
  }

  /// Four layers at step 10, three at step 20, where x of the third has no error, and one gradient.
  const std::string record_ =
      line(10, "layers.0.qkv", "y", "x", "0.01", 0.125) + line(10, "layers.0.down", "y", "x", "0.04", 0.25) +
      line(10, "layers.1.qkv", "y", "x", "0.02") + line(10, "layers.1.down", "y", "x", "0.08") +
      line(20, "layers.0.qkv", "y", "x", "0.03", 0.0625) + line(20, "layers.0.down", "y", "x", "0.01") +
      line(20, "layers.1.qkv", "y", "x", "null") + line(20, "layers.1.down", "y", "x", "0.5") +
      line(20, "layers.0.qkv", "dw", "dy", "0.007");
};

TEST_F(ReportOperands, ACurveIsTheMedianOfTheLayersBetweenTheLeastAndTheLargest) {
  const std::vector<Curve> curves = operand_curves(rows(make_run("run", record_)), relative_error);
  ASSERT_EQ(curves.size(), 2u);
  EXPECT_EQ(curves[0].name, "y: x");
  EXPECT_EQ(curves[0].color, y_x);
  EXPECT_EQ(curves[0].x, (std::vector<double>{10, 20}));
  EXPECT_EQ(curves[0].y, (std::vector<double>{0.03, 0.03}));  // half the sum of 0.02 and 0.04; the middle of three
  EXPECT_EQ(curves[0].low, (std::vector<double>{0.01, 0.01}));
  EXPECT_EQ(curves[0].high, (std::vector<double>{0.08, 0.5}));
  EXPECT_EQ(curves[1].name, "dw: dy");
  EXPECT_EQ(curves[1].color, dw_dy);
  EXPECT_EQ(curves[1].x, (std::vector<double>{20}));
  EXPECT_EQ(curves[1].y, (std::vector<double>{0.007}));
  const std::vector<Curve> shares = operand_curves(rows(directory_ / "run"), clipped);
  EXPECT_EQ(shares[0].y, (std::vector<double>{0.0625, 0}));
  EXPECT_EQ(shares[0].high, (std::vector<double>{0.25, 0.0625}));
}

TEST_F(ReportOperands, TheTableHoldsTheLastRecord) {
  const HeatTable table = last_operands(rows(make_run("run", record_)), relative_error);
  EXPECT_EQ(table.columns, (std::vector<std::string>{"y: x", "dw: dy"}));
  EXPECT_EQ(table.rows, (std::vector<std::string>{"layers.0.qkv", "layers.0.down", "layers.1.qkv", "layers.1.down"}));
  ASSERT_EQ(table.values.size(), 4u);
  EXPECT_EQ(table.values[0], (std::vector<double>{0.03, 0.007}));
  EXPECT_EQ(table.values[1][0], 0.01);
  EXPECT_TRUE(std::isnan(table.values[1][1]));
  EXPECT_TRUE(std::isnan(table.values[2][0]));
  EXPECT_EQ(table.values[3][0], 0.5);
}

TEST_F(ReportOperands, TheBandsOfAColumnsPointsAreOneBand) {
  const Curve curve{.name = "", .x = {1, 2}, .y = {3, 5}, .low = {2, 4}, .high = {9, 6}};
  const std::vector<CurveColumn> columns = in_columns(curve, 0, 10, 1);
  ASSERT_EQ(columns.size(), 1u);
  EXPECT_EQ(columns[0].mean, 4);
  EXPECT_EQ(columns[0].low, 2);
  EXPECT_EQ(columns[0].high, 9);
}

TEST_F(ReportOperands, NoBandHidesALine) {
  const Curve one{.name = "one", .x = {1, 2}, .y = {3, 5}, .low = {2, 4}, .high = {9, 6}};
  const Curve two{.name = "two", .color = 1, .x = {1, 2}, .y = {4, 5}, .low = {3, 4}, .high = {8, 6}};
  Html html;
  draw(html, {.title = "", .note = "", .x_label = "", .x_end = 2, .curves = {one, two}});
  const std::string text = html.finish();
  EXPECT_EQ(count_of(text, " band\""), 2u);
  EXPECT_LT(text.rfind(" band\""), text.find(" line\""));
}

TEST_F(ReportOperands, DotsWithoutALineAreDrawnOneByOne) {
  const Curve dots{.name = "", .dots = true, .line = false, .x = {2, 2.0001, 1}, .y = {3, 5, 4}};
  Html html;
  draw(html, {.title = "", .note = "", .x_label = "", .x_begin = 1, .x_end = 3, .curves = {dots}});
  const std::string text = html.finish();
  EXPECT_EQ(count_of(text, "h0"), 3u);
  EXPECT_EQ(count_of(text, " line"), 0u);
}

TEST_F(ReportOperands, ThePageShowsCurvesAndHeat) {
  const std::string text = page({make_run("run", record_)});
  // The axes of the clipped share end at 0.25 and its room; from zero, as the least is zero: 0.25 lies at 1 / 1.04.
  EXPECT_NE(text.find("<h3>Operands: clipped</h3>"), std::string::npos);
  EXPECT_NE(text.find("M500.0 38.5L1000.0 759.6L1000.0 1000.0L500.0 1000.0Z"), std::string::npos);
  EXPECT_NE(text.find("M500.0 759.6L1000.0 1000.0\""), std::string::npos);
  // Of 0.007 to 0.5 in the table, by logarithm: 0.03 lies at 0.35.
  EXPECT_NE(text.find("Layers at step 20: relative squared error"), std::string::npos);
  EXPECT_NE(text.find("<td style=\"--heat:0.35\">0.03</td>"), std::string::npos);
  EXPECT_NE(text.find("<td style=\"--heat:0.04\">0.007</td>"), std::string::npos);
  EXPECT_NE(text.find("<td style=\"--heat:0.96\">0.5</td>"), std::string::npos);
  EXPECT_NE(text.find("Zero in all layers at all steps: masked, underflow."), std::string::npos);
  EXPECT_EQ(text.find("Operands: masked"), std::string::npos);
  EXPECT_EQ(count_of(text, "<details>"), 3u) << "two measures and the configuration";
  EXPECT_EQ(text.find("nan"), std::string::npos);
  for (const char* tag : {"section", "figure", "div", "svg", "table", "details"})
    EXPECT_EQ(count_of(text, std::string("<") + tag + ">") + count_of(text, std::string("<") + tag + " "),
              count_of(text, std::string("</") + tag + ">"))
        << tag;
}

TEST_F(ReportOperands, RunsWithoutARecordHaveNoSection) {
  const fs::path without = make_run("without", "");
  EXPECT_EQ(page({without}).find("Operands"), std::string::npos) << "a file without a row";
  fs::remove(operand_record_path(without));
  EXPECT_EQ(page({without}).find("Operands"), std::string::npos);
  EXPECT_EQ(page({without}).find("operands.jsonl"), std::string::npos) << "a file that few runs have is not missed";
  const std::string both = page({without, make_run("with", record_)});
  EXPECT_EQ(count_of(both, "<h2>Operands</h2>"), 1u);
  EXPECT_EQ(count_of(both, "<h3>with</h3>"), 1u);
  EXPECT_EQ(count_of(both, "<h3>without</h3>"), 0u);
}

TEST_F(ReportOperands, LayersAreNoMarkup) {
  const std::string text = page({make_run("run", line(10, "<script>alert(1)</script>&", "y", "x", "0.01"))});
  EXPECT_EQ(text.find("<script"), std::string::npos);
  EXPECT_NE(text.find("&lt;script&gt;alert(1)&lt;/script&gt;&amp;</th>"), std::string::npos);
}

TEST_F(ReportOperands, ALineThatAKillCutIsLeftOutAndSaid) {
  const std::string text = page({make_run("run", record_ + R"({"step":20,"layer":"layers.0.d)")});
  EXPECT_NE(text.find("operands.jsonl:10: this line is no whole record of an operand and was left out "
                      "({&quot;step&quot;:20,&quot;layer&quot;:&quot;layers.0.d)"),
            std::string::npos);
  EXPECT_EQ(rows(directory_ / "run").size(), 9u);
  EXPECT_NE(text.find("<td style=\"--heat:0.96\">0.5</td>"), std::string::npos);
  EXPECT_EQ(page({make_run("run", record_)}).find("left out"), std::string::npos);
}

TEST_F(ReportOperands, WhatIsWholeBesideDamageIsShown) {
  const fs::path run = make_run("run", "nonsense\n" + line(10, "a", "y", "x", "0.01", 0, 0.5) + "{\"step\":10}\n" +
                                           line(10, "a", "y", "dy", "0.02") + line(10, "", "y", "x", "0.02") +
                                           "{\"step\":10,\"layer\":7,\"product\":[],\"operand\":\"x\"}\n" +
                                           line(10, "b", "y", "x", "\"much\""));
  std::vector<OperandRow> read;
  expect_error(ErrorKind::checkpoint, {"operands.jsonl:1", "5 lines", "nonsense"}, [&] {
    read_operand_rows(operand_record_path(run), [&](OperandRow&& row) { read.push_back(std::move(row)); });
  });
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].layer, "a");
  EXPECT_EQ(read[0].step, 10);
  EXPECT_EQ(read[0].values[relative_error], 0.01);
  EXPECT_EQ(read[0].values[underflow], 0.5);
  EXPECT_EQ(read[1].layer, "b");
  EXPECT_TRUE(std::isnan(read[1].values[relative_error]));
  const std::string text = page({run});
  EXPECT_NE(text.find("operands.jsonl:1: 5 lines are no whole records"), std::string::npos);
  EXPECT_NE(text.find("Layers at step 10"), std::string::npos);
}

}  // namespace
}  // namespace nibble
