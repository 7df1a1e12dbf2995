#include "trainer/sweep_identity.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/json.hpp"
#include "data/json_fields.hpp"
#include "tensor/error.hpp"
#include "trainer/settings_table.hpp"

namespace nibble {
namespace {

using nlohmann::json;

/// Texts by path: "runs/NAME/optimizer.learning_rate".
using Texts = std::map<std::string, std::string>;

json settings_of(const Settings& settings) {
  const Settings bare = without_place(settings), usual;
  json object = json::object();
  for (const Setting& setting : settings_table()) {
    const std::string value = format_value(setting, bare);
    if (value != format_value(setting, usual)) object[setting.key] = value;
  }
  return object;
}

struct Parsed {
  std::map<std::string, Texts> runs;
  Texts others;
};

Parsed parse(const std::string& text, const std::string& where) {
  constexpr ErrorKind kind = ErrorKind::resource;
  const json object = parse_json(text, where, kind);
  const JsonFields fields(object, where, kind);
  Parsed parsed;
  for (const auto& run : fields.object("runs").items()) {
    const JsonFields settings(run.value(), where, kind);
    for (const auto& setting : run.value().items())
      parsed.runs[run.key()][setting.key()] = settings.text(setting.key());
  }
  parsed.others = {{"rungs", fields.at("rungs").dump()}, {"keep", fields.at("keep").dump()}};
  return parsed;
}

/// "KEY: 1 before, 2 now"
std::vector<std::string> differences(const Texts& before, const Texts& now, const std::string& prefix) {
  Texts keys = before;
  keys.insert(now.begin(), now.end());
  std::vector<std::string> lines;
  for (const auto& [key, unused] : keys) {
    const auto then = before.find(key), after = now.find(key);
    const std::string old_text = then == before.end() ? "the default" : then->second,
                      new_text = after == now.end() ? "the default" : after->second;
    if (old_text != new_text) lines.push_back(fmt::format("{}{}: {} before, {} now", prefix, key, old_text, new_text));
  }
  return lines;
}

}  // namespace

std::string sweep_identity(const SweepPlan& plan) {
  json runs = json::object(), rungs = json::array();
  for (const SweepRun& run : plan.runs) runs[run.name] = settings_of(run.settings);
  for (const SweepTask& task : plan.tasks)
    if (plan.rungs > 0) rungs.push_back(task.id);
  return json{{"runs", runs}, {"rungs", rungs}, {"keep", plan.keep}}.dump(1) + "\n";
}

void require_same_sweep(const std::string& before, const std::string& now, const std::string& where) {
  if (before == now) return;
  const Parsed then = parse(before, where), here = parse(now, where);
  std::vector<std::string> lines = differences(then.others, here.others, "");
  for (const auto& [name, settings] : then.runs) {
    const auto found = here.runs.find(name);
    if (found == here.runs.end()) lines.push_back(fmt::format("run {} is in the ledger alone", name));
    else
      for (std::string& line : differences(settings, found->second, fmt::format("run {}: ", name)))
        lines.push_back(std::move(line));
  }
  for (const auto& [name, settings] : here.runs)
    if (!then.runs.contains(name)) lines.push_back(fmt::format("run {} is in the file alone", name));
  constexpr size_t most = 8;
  const size_t left = lines.size() - std::min(lines.size(), most);
  lines.resize(lines.size() - left);
  throw Error({.kind = ErrorKind::configuration,
               .what = "the sweep's directory holds another sweep",
               .where = where,
               .seen = fmt::format("{}{}", fmt::join(lines, "; "), left > 0 ? fmt::format("; {} more", left) : ""),
               .allowed = "the file that the directory was made with",
               .next = "restore the file, or choose another directory: for the changed sweep"});
}

}  // namespace nibble
