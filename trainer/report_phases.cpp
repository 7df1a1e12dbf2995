#include "trainer/report_phases.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "trainer/report_table.hpp"

namespace nibble {
namespace {

constexpr std::string_view prefix = "seconds_";
/// The column seconds ends before the checkpoint is saved.
constexpr std::string_view after_the_step = "seconds_checkpoint";
/// The communication thread works while the phases go on; what a step waits for it stands in one of them.
constexpr std::string_view beside_the_phases = "seconds_communication";

constexpr const char* other = "other";

std::string phase_name(std::string_view column) {
  std::string name(column.substr(prefix.size()));
  std::ranges::replace(name, '_', ' ');
  return name;
}

/// Steps that were measured.
double steps_in(const MetricTable& metrics) {
  return std::max(1.0, static_cast<double>(metrics.numbers("seconds").size()));
}

/// "41.2 ms".
std::string short_time(double seconds) {
  for (const auto& [unit, name] : {std::pair(1.0, "s"), std::pair(1e-3, "ms")})
    if (seconds >= unit) return fmt::format("{:.3g} {}", seconds / unit, name);
  return fmt::format("{:.3g} µs", seconds * 1e6);
}

double seconds_of(const std::vector<Phase>& phases, const std::string& name) {
  const auto found = std::ranges::find(phases, name, &Phase::name);
  return found == phases.end() ? 0 : found->seconds;
}

double sum(const std::vector<Phase>& phases) {
  double seconds = 0;
  for (const Phase& phase : phases) seconds += phase.seconds;
  return seconds;
}

/// The phases of all runs, each once, "other" last.
std::vector<std::string> all_names(const std::vector<std::vector<Phase>>& runs) {
  std::vector<std::string> names;
  for (const std::vector<Phase>& phases : runs)
    for (const Phase& phase : phases)
      if (phase.name != other && std::ranges::find(names, phase.name) == names.end()) names.push_back(phase.name);
  names.emplace_back(other);
  return names;
}

std::string color_of(size_t phase, size_t phases) {
  constexpr size_t colors = 7;  // the eighth is that of "other"
  return fmt::format("p{}", phase + 1 == phases ? colors : phase % colors);
}

void bars(Html& html, std::span<const ReportRun> runs, const std::vector<std::vector<Phase>>& phases,
          const std::vector<std::string>& names) {
  double longest = 0;
  for (const std::vector<Phase>& run : phases) longest = std::max(longest, sum(run));
  html.open("div", {{"class", "bars"}});
  for (size_t i = 0; i < runs.size(); ++i) {
    html.element("span", runs[i].name);
    html.open("div", {{"class", "bar"}});
    for (size_t p = 0; p < names.size(); ++p) {
      const double seconds = seconds_of(phases[i], names[p]);
      html.element("i", "",
                   {{"class", color_of(p, names.size())},
                    {"style", fmt::format("width:{:.3f}%", 100 * seconds / longest)},
                    {"title", fmt::format("{}: {}", names[p], short_time(seconds))}});
    }
    html.close();
  }
  html.close();
  html.open("ul", {{"class", "legend"}});
  for (size_t p = 0; p < names.size(); ++p) {
    html.open("li");
    html.element("span", "", {{"class", color_of(p, names.size()) + " block"}});
    html.text(names[p]);
    html.close();
  }
  html.close();
}

}  // namespace

std::vector<Phase> phases_of(const MetricTable& metrics) {
  std::vector<Phase> phases;
  const double steps = steps_in(metrics);
  double rest = metrics.sum("seconds").value_or(0) / steps;
  for (const std::string& column : metrics.names()) {
    if (!column.starts_with(prefix) || column == beside_the_phases) continue;
    const double seconds = metrics.sum(column).value_or(0) / steps;
    if (column != after_the_step) rest -= seconds;
    phases.push_back({phase_name(column), seconds});
  }
  if (!phases.empty()) phases.push_back({other, std::max(0.0, rest)});
  return phases;
}

void time_by_phase(Html& html, std::span<const ReportRun> runs) {
  std::vector<std::vector<Phase>> phases;
  for (const ReportRun& run : runs) phases.push_back(phases_of(run.metrics));
  if (std::ranges::all_of(phases, [](const auto& run) { return sum(run) == 0; })) return;
  const std::vector<std::string> names = all_names(phases);
  html.open("section");
  html.element("h2", "Time by phase");
  html.element("p", "mean of a step, with the checkpoints and validations that fall on it");
  bars(html, runs, phases, names);

  std::vector<ComparisonRow> table;
  for (const std::string& name : names) {
    ComparisonRow row{name};
    for (const std::vector<Phase>& run : phases) {
      const double seconds = seconds_of(run, name), all = sum(run);
      row.values.push_back(all > 0 ? fmt::format("{} ({:.1f}%)", short_time(seconds), 100 * seconds / all)
                                   : std::string());
    }
    table.push_back(std::move(row));
  }
  ComparisonRow step{"step"}, beside{"communication, beside the others"};
  for (size_t i = 0; i < runs.size(); ++i) {
    step.values.push_back(sum(phases[i]) > 0 ? short_time(sum(phases[i])) : "");
    const std::optional<double> seconds = runs[i].metrics.sum(std::string(beside_the_phases));
    beside.values.push_back(seconds ? short_time(*seconds / steps_in(runs[i].metrics)) : "");
  }
  table.push_back(std::move(step));
  if (std::ranges::any_of(beside.values, [](const std::string& value) { return !value.empty(); }))
    table.push_back(std::move(beside));
  comparison_table(html, runs, table);
  html.close();
}

}  // namespace nibble
