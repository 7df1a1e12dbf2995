#include "trainer/fit_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

std::string interval_text(const std::optional<Interval>& interval, bool fixed = false) {
  if (fixed) return "fixed";
  return interval ? fmt::format("{:.4g} to {:.4g}", interval->low, interval->high) : "-";
}

std::string residuals_text(const ResidualSize& size) {
  return fmt::format("{} runs, rms {:.3e}, largest {:.3e}, mean {:+.3e}", size.runs, size.rms, size.largest, size.mean);
}

std::string constants_text(const LawFit& fit) {
  std::string text = fmt::format("{:<12} {:>14}  {}\n", "constant", "value", "95% interval");
  for (const FittedConstant& constant : fit.constants)
    text += fmt::format("{:<12} {:>14.7g}  {}\n", constant.name, constant.value,
                        interval_text(constant.interval, constant.fixed));
  return text;
}

std::string efficiencies_text(const LawFit& fit) {
  if (fit.efficiencies.empty()) return "";
  size_t width = 6;
  for (const FittedEfficiency& efficiency : fit.efficiencies) width = std::max(width, efficiency.of.recipe.size());
  std::string text = fmt::format("\n{:<6} {:<{}} {:>5} {:>8}  {:<18} {:>10} {:>10}\n", "", "recipe", width, "runs",
                                 "value", "95% interval", "rms", "capacity");
  for (const FittedEfficiency& e : fit.efficiencies)
    text += fmt::format("{:<6} {:<{}} {:>5} {:>8.4f}  {:<18} {:>10.3e} {:>10}\n", e.of.of_data ? "eff_D" : "eff_N",
                        e.of.recipe, width, e.residuals.runs, e.value, interval_text(e.interval), e.residuals.rms,
                        e.capacity ? fmt::format("{:.4f}", *e.capacity) : "-");
  return text +
         "eff_N: of a forward recipe, as a factor of the parameters; eff_D: of a backward recipe, of the tokens.\n"
         "capacity: eff_N that the unified law predicts from the formats' errors (nibble capacity).\n";
}

/// One line for each reason.
std::string left_out_text(const LawFit& fit) {
  std::map<std::string, std::vector<std::string>> runs;
  for (const LeftOut& left_out : fit.left_out) runs[left_out.why].push_back(left_out.run);
  std::string text;
  for (const auto& [why, names] : runs) {
    constexpr size_t shown = 4;
    text += fmt::format("left out: {}: {} {}", why, names.size(), names.size() == 1 ? "run" : "runs");
    for (size_t i = 0; i < std::min(shown, names.size()); ++i) text += (i == 0 ? ", " : "; ") + names[i];
    text += names.size() > shown ? "; ...\n" : "\n";
  }
  return text;
}

Json residuals_json(const ResidualSize& size) {
  return {{"runs", size.runs}, {"rms", size.rms}, {"largest", size.largest}, {"mean", size.mean}};
}

void add_interval(Json& json, const std::optional<Interval>& interval) {
  if (interval) json["interval"] = {interval->low, interval->high};
}

}  // namespace

std::string fit_text(const LawFit& fit) {
  std::string text = fmt::format("law      {}: {}\nsource   {}\n", fit.law->name, fit.law->formula, fit.law->source);
  text += fmt::format("fit      Huber loss of ln L, delta {:g}: cost {:.4e}, reached by {} of {} starts\n", fit.huber,
                      fit.cost, fit.reached, fit.starts);
  text += fmt::format("         {}\n", residuals_text(fit.residuals));
  if (fit.noise)
    text +=
        fmt::format("noise    of ln L between runs alike in size, tokens and recipes: {:.3e} ({} degrees of freedom)\n",
                    *fit.noise, fit.noise_degrees);
  if (fit.entropy)
    text +=
        fmt::format("entropy  of the synthetic language of all runs: {} is fixed at it\n", fit.constants[law_e].name);
  text += "\n" + constants_text(fit) + efficiencies_text(fit);
  if (fit.held_out) text += fmt::format("\nheld out: {}\n", residuals_text(*fit.held_out));
  if (fit.resamples > 0) text += fmt::format("\nintervals: {} resamples of the runs of each recipe\n", fit.resamples);
  text += left_out_text(fit);
  for (const std::string& warning : fit.warnings) text += "warning: " + warning + "\n";
  return text;
}

nlohmann::ordered_json fit_json(const LawFit& fit) {
  Json json = {{"law", fit.law->name},
               {"formula", fit.law->formula},
               {"source", fit.law->source},
               {"huber", fit.huber},
               {"cost", fit.cost},
               {"starts", fit.starts},
               {"reached", fit.reached},
               {"resamples", fit.resamples},
               {"residuals", residuals_json(fit.residuals)}};
  if (fit.noise) json["noise"] = {{"deviation", *fit.noise}, {"degrees_of_freedom", fit.noise_degrees}};
  if (fit.entropy) json["entropy"] = *fit.entropy;
  json["constants"] = Json::array();
  for (const FittedConstant& constant : fit.constants) {
    Json entry = {{"name", constant.name}, {"value", constant.value}, {"fixed", constant.fixed}};
    add_interval(entry, constant.interval);
    json["constants"].push_back(entry);
  }
  json["efficiencies"] = Json::array();
  for (const FittedEfficiency& efficiency : fit.efficiencies) {
    Json entry = {{"of", efficiency.of.of_data ? "data" : "parameters"},
                  {"recipe", efficiency.of.recipe},
                  {"value", efficiency.value},
                  {"residuals", residuals_json(efficiency.residuals)}};
    add_interval(entry, efficiency.interval);
    if (efficiency.starts > 0) entry.update({{"starts", efficiency.starts}, {"reached", efficiency.reached}});
    if (efficiency.capacity) entry["capacity"] = *efficiency.capacity;
    json["efficiencies"].push_back(entry);
  }
  if (fit.held_out) json["held_out"] = residuals_json(*fit.held_out);
  json["runs"] = Json::array();
  for (const FittedPoint& p : fit.points)
    json["runs"].push_back({{"run", p.point.run},
                            {"parameters", p.point.parameters},
                            {"tokens", p.point.tokens},
                            {"forward", p.point.forward},
                            {"backward", p.point.backward},
                            {"held_out", p.held_out},
                            {"loss", p.point.loss},
                            {"predicted", p.predicted},
                            {"residual", p.residual}});
  json["left_out"] = Json::array();
  for (const LeftOut& left_out : fit.left_out)
    json["left_out"].push_back({{"run", left_out.run}, {"why", left_out.why}});
  json["warnings"] = fit.warnings;
  return json;
}

}  // namespace nibble
