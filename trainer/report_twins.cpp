#include "trainer/report_twins.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "trainer/precision.hpp"
#include "trainer/settings_table.hpp"

namespace nibble {
namespace {

/// All settings that pairs share.
Settings shared_settings(Settings settings) {
  settings.precision = {};
  settings.run = {.seed = settings.run.seed};
  return settings;
}

std::string values_of(const Settings& settings, const auto& wanted) {
  std::string text;
  for (const Setting& setting : settings_table())
    if (wanted(setting.key)) text += setting.key + ": " + format_value(setting, settings) + "\n";
  return text;
}

/// "quartet2", or every setting of precision that is not the default.
std::string precision_name(const Settings& settings) {
  std::string text;
  const Settings usual;
  for (const Setting& setting : settings_table()) {
    const std::string value = format_value(setting, settings);
    if (!is_precision(setting.key) || value == format_value(setting, usual)) continue;
    const std::string key = setting.key.substr(setting.key.find('.') + 1);
    text += (text.empty() ? "" : ", ") + (key == "recipe" ? value : key + " " + value);
  }
  return text;
}

bool is_bf16(const Settings& settings) { return settings.precision == PrecisionSettings{}; }

struct Measured {
  const Settings* settings;
  double step, loss;
};

/// The last validation, at the run's last step.
std::optional<Measured> measured(const ReportRun& run) {
  const std::vector<double>&steps = run.metrics["step"], &losses = run.metrics["validation_loss"];
  if (!run.settings || losses.empty() || !std::isfinite(losses.back())) return std::nullopt;
  return Measured{&*run.settings, steps.back(), losses.back()};
}

struct Group {
  TwinGap gap;
  Settings settings;
  double twin_sum = 0;
  std::set<int64_t> seeds{};
};

void conclude(Group& group) {
  TwinGap& gap = group.gap;
  const auto count = static_cast<double>(gap.gaps.size());
  gap.mean = std::accumulate(gap.gaps.begin(), gap.gaps.end(), 0.0) / count;
  gap.twin_loss = group.twin_sum / count;
  if (gap.gaps.size() < 2) return;
  double squares = 0;
  for (const double one : gap.gaps) squares += (one - gap.mean) * (one - gap.mean);
  gap.half_interval = student_t(gap.gaps.size() - 1) * std::sqrt(squares / (count - 1) / count);
}

/// What tells the groups apart beside their precision.
void name_others(std::vector<Group>& groups) {
  for (const Setting& setting : settings_table()) {
    if (is_precision(setting.key) || setting.key.starts_with("run.")) continue;
    const auto value = [&](const Group& group) { return format_value(setting, group.settings); };
    if (std::ranges::all_of(groups, [&](const Group& group) { return value(group) == value(groups.front()); }))
      continue;
    for (Group& group : groups)
      group.gap.others += fmt::format("{}{}: {}", group.gap.others.empty() ? "" : ", ", setting.key, value(group));
  }
}

}  // namespace

double student_t(size_t degrees) {
  // Tabulated where the expansion errs: any table of Student's t, two-sided 5%.
  constexpr double table[] = {12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600};
  if (degrees <= std::size(table)) return table[degrees - 1];
  // Cornish-Fisher: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
  constexpr double x = 1.959963985;
  const auto n = static_cast<double>(degrees);
  const double x3 = x * x * x, x5 = x3 * x * x, x7 = x5 * x * x, x9 = x7 * x * x;
  return x + (x3 + x) / (4 * n) + (5 * x5 + 16 * x3 + 3 * x) / (96 * n * n) +
         (3 * x7 + 19 * x5 + 17 * x3 - 15 * x) / (384 * n * n * n) +
         (79 * x9 + 776 * x7 + 1482 * x5 - 1920 * x3 - 945 * x) / (92160 * n * n * n * n);
}

std::vector<TwinGap> twin_gaps(std::span<const ReportRun> runs) {
  const auto all = [](const std::string&) { return true; };
  std::map<std::string, Measured> twins;
  for (const ReportRun& run : runs)
    if (const std::optional<Measured> found = measured(run); found && is_bf16(*found->settings))
      twins.emplace(values_of(shared_settings(*found->settings), all), *found);
  std::vector<Group> groups;
  std::map<std::string, size_t> known;
  for (const ReportRun& run : runs) {
    const std::optional<Measured> own = measured(run);
    if (!own || is_bf16(*own->settings)) continue;
    Settings shared = shared_settings(*own->settings);
    const auto twin = twins.find(values_of(shared, all));
    if (twin == twins.end() || twin->second.step != own->step) continue;
    shared.run = {};
    const std::string key = values_of(shared, all) + values_of(*own->settings, is_precision);
    const auto [group, added] = known.emplace(key, groups.size());
    if (added) {
      Group& fresh = groups.emplace_back();
      fresh.gap.precision = precision_name(*own->settings);
      fresh.settings = shared;
    }
    Group& of = groups[group->second];
    if (!of.seeds.insert(own->settings->run.seed).second) continue;  // the same run, from another folder
    of.gap.gaps.push_back(own->loss - twin->second.loss);
    of.twin_sum += twin->second.loss;
  }
  std::vector<TwinGap> gaps;
  if (!groups.empty()) name_others(groups);
  for (Group& group : groups) {
    conclude(group);
    gaps.push_back(std::move(group.gap));
  }
  return gaps;
}

void twin_table(Html& html, std::span<const ReportRun> runs) {
  const std::vector<TwinGap> gaps = twin_gaps(runs);
  if (gaps.empty()) return;
  html.open("section");
  html.element("h2", "Gap to bf16");
  html.element("p",
               "Final validation loss less that of the run that differs in precision alone, nats per token; the "
               "interval holds the mean over all seeds with 95%, from those that were run.");
  html.open("div", {{"class", "scroll"}});
  html.open("table");
  html.open("thead");
  html.open("tr");
  for (const char* title : {"precision", "gap", "95% interval", "seeds", "bf16 loss", "where"})
    html.element("th", title);
  html.close();
  html.close();
  html.open("tbody");
  for (const TwinGap& gap : gaps) {
    html.open("tr");
    html.element("th", gap.precision);
    html.element("td", fmt::format("{:+.4f}", gap.mean));
    html.element("td", gap.half_interval ? fmt::format("{:+.4f} to {:+.4f}", gap.mean - *gap.half_interval,
                                                       gap.mean + *gap.half_interval)
                                         : "one seed: none");
    html.element("td", std::to_string(gap.gaps.size()));
    html.element("td", fmt::format("{:.4f}", gap.twin_loss));
    html.element("td", gap.others);
    html.close();
  }
  for (int i = 0; i < 4; ++i) html.close();
}

}  // namespace nibble
