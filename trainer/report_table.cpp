#include "trainer/report_table.hpp"

#include "trainer/report_figure.hpp"

namespace nibble {

void comparison_table(Html& html, std::span<const ReportRun> runs, std::span<const ComparisonRow> rows) {
  html.open("div", {{"class", "scroll"}});
  html.open("table");
  html.open("thead");
  html.open("tr");
  html.element("th", "");
  for (size_t i = 0; i < runs.size(); ++i) {
    html.open("th");
    html.element("span", "", {{"class", color_class(i) + " block"}});
    html.text(runs[i].name);
    html.close();
  }
  html.close();
  html.close();
  html.open("tbody");
  for (const ComparisonRow& row : rows) {
    html.open("tr");
    html.element("th", row.name);
    for (const std::string& value : row.values) html.element("td", value.empty() ? "–" : value);
    html.close();
  }
  html.close();
  html.close();
  html.close();
}

}  // namespace nibble
