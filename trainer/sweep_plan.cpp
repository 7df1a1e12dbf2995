#include "trainer/sweep_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/precision.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/run_plan.hpp"
#include "trainer/sweep_points.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

const std::set<std::string> lengths = {"steps", "tokens", "epochs", tokens_per_parameter};

[[noreturn]] void refuse(const std::string& what, const std::string& where, const std::string& seen,
                         const std::string& allowed, const std::string& next) {
  throw Error(
      {.kind = ErrorKind::configuration, .what = what, .where = where, .seen = seen, .allowed = allowed, .next = next});
}

/// What `work` gives; its errors say which run they are of.
template <class Work>
auto in_run(const std::string& name, Work&& work) {
  try {
    return work();
  } catch (const Error& error) {
    ErrorDetail detail = error.detail();
    detail.where = fmt::format("run {}: {}", name, detail.where);
    throw Error(detail);
  }
}

bool only_keys(const SweepValue& value, const auto& predicate) {
  return std::ranges::all_of(value.assignments,
                             [&](const SweepAssignment& assignment) { return predicate(assignment.key); });
}
bool is_length(const std::string& key) { return lengths.contains(key) || key == "schedule.decay"; }

/// The parts that are not empty, joined; shortened by a hash where a file's name could be too long.
std::string joined(const std::vector<std::string>& parts) {
  std::string name;
  for (const std::string& part : parts)
    if (!part.empty()) name += (name.empty() ? "" : "_") + part;
  if (name.empty()) return "run";
  constexpr size_t longest = 120;
  if (name.size() > longest) name = name.substr(0, longest - 17) + "_" + hex(checksum(bytes_of(name)));
  return name;
}

/// Of a twin: bf16 in the place of the precision.
std::string name_of(const SweepPoint& point, bool twin, bool with_length) {
  std::vector<std::string> parts;
  bool said = !twin;
  for (const SweepValue& value : point) {
    if (!with_length && only_keys(value, is_length)) continue;
    if (!twin || !only_keys(value, is_precision)) parts.push_back(value.label);
    else if (!std::exchange(said, true)) parts.emplace_back("bf16");
  }
  if (!said) parts.emplace_back("bf16");
  return joined(parts);
}

double real_of(const SweepAssignment& assignment) {
  try {
    const double value = assignment.value.IsScalar() ? parse_real(assignment.value.Scalar()) : 0;
    if (value > 0) return value;
  } catch (const ValueError&) {
  }
  refuse(fmt::format("bad value of {}", tokens_per_parameter), assignment.where,
         assignment.value.IsScalar() ? assignment.value.Scalar() : "a list or a map", "a number above 0", "");
}

std::string text_of(const YAML::Node& node) {
  if (node.IsScalar()) return node.Scalar();
  YAML::Emitter out;
  out << YAML::Flow << node;
  return out.c_str();
}

/// All but the vocabulary, where only the data knows that.
ModelConfig shape_without_data(Settings settings) {
  if (settings.model.from.empty()) settings.model.vocab = std::max<int64_t>(settings.model.vocab, 1);
  return shape_of(settings);
}

GivenSettings settings_of(const SweepFile& file, const SweepPoint& point) {
  GivenSettings given = file.base;
  const SweepAssignment* ratio = nullptr;
  for (const SweepValue& value : point)
    for (const SweepAssignment& assignment : value.assignments) {
      if (lengths.contains(assignment.key)) {  // in the place of the base's
        given.settings.steps = given.settings.tokens = 0;
        given.settings.epochs = 0;
      }
      if (assignment.key == tokens_per_parameter) ratio = &assignment;
      else give_setting(given, *find_setting(assignment.key), assignment.value, assignment.where);
    }
  if (ratio) {
    const auto parameters = static_cast<double>(shape_without_data(given.settings).non_embedding_parameters());
    given.settings.tokens = static_cast<int64_t>(real_of(*ratio) * parameters);
    given.origins["tokens"] = ratio->where;
  }
  return given;
}

int64_t steps_of(const Settings& settings) {
  if (settings.epochs == 0) return resolve_steps(settings, 0);
  Settings trained = settings;
  trained.data.validation.clear();
  return resolve_steps(settings, RunData(trained).train().tokens_per_epoch());
}

bool quantizes(const Settings& settings) {
  return std::ranges::any_of(recipes_of(settings.precision), &Recipe::quantizes);
}

/// What would be another run if it were a part of a longer one.
void require_free_of_length(const SweepRun& run) {
  const Settings& s = run.settings;
  const auto refuse_share = [&](const char* key, const std::string& seen) {
    refuse("a branch of a trunk would not be the run that it stands for: this follows the length of the run",
           fmt::format("run {}: {}", run.name, key), seen, "steps, not a share of them",
           "give steps, or sweep without trunk: true");
  };
  if (s.schedule.name != "wsd")
    refuse("only a schedule with a stable phase has a trunk", fmt::format("run {}: schedule.name", run.name),
           s.schedule.name, "wsd", "set schedule: {name: wsd, warmup: STEPS, decay: 20%}");
  if (s.schedule.warmup.is_share) refuse_share("schedule.warmup", format_steps_or_share(s.schedule.warmup));
  if (s.gradients.warmup.is_share && s.gradients.warmup.value > 0)
    refuse_share("gradients.warmup", format_steps_or_share(s.gradients.warmup));
  if (s.optimizer.name == "ademamix" && s.optimizer.ademamix.warmup.is_share)
    refuse_share("optimizer.ademamix.warmup", format_steps_or_share(s.optimizer.ademamix.warmup));
  if (s.precision.cage.strength > 0) refuse_share("precision.cage", "a pull that begins at a share of the run");
  for (const PrecisionOverride& rule : s.precision.overrides)
    if (rule.phase.find('%') != std::string::npos || rule.phase.starts_with("last"))
      refuse_share("precision.overrides", rule.phase);
}

class Planner {
 public:
  explicit Planner(const SweepFile& file) : file_(file) {
    plan_.directory = file.directory;
    plan_.rungs = file.rungs.size();
    plan_.keep = file.keep;
  }

  SweepPlan plan() {
    const std::vector<SweepPoint> points = points_of(file_);
    for (const SweepPoint& point : points) add_point(point);
    if (file_.twins)
      for (size_t i = 0; i < points.size(); ++i) add_twin(points[i], i);
    require_different();
    if (file_.trunk)
      for (size_t i = 0, count = plan_.runs.size(); i < count; ++i) add_to_trunk(i);
    add_tasks();
    return std::move(plan_);
  }

 private:
  void place(SweepRun& run) const { run.settings.run.directory = (plan_.directory / run.name).string(); }

  void add_point(const SweepPoint& point) {
    SweepRun run{.name = name_of(point, false, true), .settings = {}};
    in_run(run.name, [&] {
      GivenSettings given = settings_of(file_, point);
      run.settings = given.settings;
      place(run);
      validate(run.settings, given.origins);
      shape_without_data(run.settings);
      run.steps = steps_of(run.settings);
    });
    for (const SweepValue& value : point)
      for (const SweepAssignment& assignment : value.assignments)
        run.assignments.emplace_back(assignment.key, text_of(assignment.value));
    if (const auto [other, added] = by_name_.emplace(run.name, plan_.runs.size()); !added)
      refuse("two runs with one name", file_.name, run.name, "a name for each run", "give grouped values other labels");
    points_.push_back(point);
    plan_.runs.push_back(std::move(run));
  }

  void add_twin(const SweepPoint& point, size_t of) {
    if (!quantizes(plan_.runs[of].settings)) return;
    SweepRun twin = plan_.runs[of];
    twin.name = name_of(point, true, true);
    twin.role = SweepRun::Role::twin;
    twin.settings.precision = {};
    std::erase_if(twin.assignments, [](const auto& assignment) { return is_precision(assignment.first); });
    const Settings bare = without_place(twin.settings);
    for (size_t i = 0; i < plan_.runs.size() && !plan_.runs[of].twin; ++i)
      if (without_place(plan_.runs[i].settings) == bare) plan_.runs[of].twin = i;
    if (plan_.runs[of].twin) return;
    if (!by_name_.emplace(twin.name, plan_.runs.size()).second)
      refuse("two runs with one name", file_.name,
             fmt::format("{}, the bf16 twin of {}", twin.name, plan_.runs[of].name), "a name for each run",
             "give grouped values labels that say more");
    place(twin);
    in_run(twin.name, [&] { validate(twin.settings); });
    plan_.runs[of].twin = plan_.runs.size();
    points_.push_back(point);
    plan_.runs.push_back(std::move(twin));
  }

  void require_different() const {
    std::vector<Settings> bare;
    for (const SweepRun& run : plan_.runs) bare.push_back(without_place(run.settings));
    for (size_t i = 0; i < bare.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        if (bare[i] == bare[j])
          refuse("two runs with the same settings", file_.name,
                 fmt::format("{} and {}", plan_.runs[j].name, plan_.runs[i].name), "each run once",
                 "remove one of the values");
  }

  void add_to_trunk(size_t index) {
    require_free_of_length(plan_.runs[index]);
    const int64_t decay = plan_.runs[index].settings.schedule.decay.of(plan_.runs[index].steps);
    const int64_t first = plan_.runs[index].steps - decay;
    if (decay <= 0 || first <= plan_.runs[index].settings.schedule.warmup.value)
      refuse("a branch of a trunk needs a decay, and a stable phase before it",
             fmt::format("run {}: schedule", plan_.runs[index].name),
             fmt::format("{} steps, of which {} decay", plan_.runs[index].steps, decay),
             "schedule.decay above 0, and less than what follows the warm-up", "change schedule.decay or the length");
    Settings settings = plan_.runs[index].settings;
    settings.steps = first;
    settings.tokens = 0;
    settings.epochs = 0;
    settings.schedule.decay = StepsOrShare::steps(0);
    size_t trunk = plan_.runs.size();
    for (size_t i = points_.size(); i < plan_.runs.size(); ++i) {
      Settings longer = plan_.runs[i].settings;
      longer.steps = first;
      if (without_place(longer) == without_place(settings)) trunk = i;
    }
    if (trunk == plan_.runs.size()) {
      SweepRun run{.name = "trunks/" + name_of(points_[index], plan_.runs[index].role == SweepRun::Role::twin, false),
                   .role = SweepRun::Role::trunk,
                   .settings = settings};
      if (!by_name_.emplace(run.name, trunk).second)
        refuse("two trunks with one name", file_.name, run.name, "a name for each trunk",
               "give grouped values labels of their own, and the length an axis of its own");
      place(run);
      plan_.runs.push_back(std::move(run));
    }
    SweepRun& branch = plan_.runs[index];
    branch.trunk = trunk;
    branch.first_step = first;
    branch.settings.run.branch = checkpoint_path(plan_.runs[trunk].settings.run.directory, first).string();
    SweepRun& run = plan_.runs[trunk];
    run.kept_steps.push_back(first);
    run.steps = run.settings.steps = std::max(run.settings.steps, first);
  }

  void add_tasks() {
    std::map<std::pair<size_t, int64_t>, size_t> segments;
    const auto id_of = [&](size_t run) {
      std::string id = plan_.runs[run].name;
      std::ranges::replace(id, '/', '+');
      return id;
    };
    for (size_t i = points_.size(); i < plan_.runs.size(); ++i) {
      std::vector<int64_t>& ends = plan_.runs[i].kept_steps;
      std::ranges::sort(ends);
      ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
      std::optional<size_t> before;
      for (const int64_t end : ends) {
        plan_.tasks.push_back({.id = fmt::format("{}@{}", id_of(i), end), .run = i, .until = end, .after = before});
        before = segments[{i, end}] = plan_.tasks.size() - 1;
      }
    }
    std::vector<std::optional<size_t>> before(points_.size());
    for (size_t rung = 0; rung <= plan_.rungs; ++rung)
      for (size_t i = 0; i < points_.size(); ++i) {
        const SweepRun& run = plan_.runs[i];
        const int64_t until = rung < plan_.rungs ? rung_step(run, rung) : run.steps;
        if (run.trunk) before[i] = segments.at({*run.trunk, run.first_step});
        plan_.tasks.push_back({.id = plan_.rungs == 0 ? id_of(i) : fmt::format("{}@{}", id_of(i), until),
                               .run = i,
                               .until = until,
                               .after = before[i],
                               .rung = rung});
        before[i] = plan_.tasks.size() - 1;
      }
  }

  int64_t rung_step(const SweepRun& run, size_t rung) const {
    const int64_t step = file_.rungs[rung].of(run.steps), before = rung > 0 ? file_.rungs[rung - 1].of(run.steps) : 0;
    if (step <= before || step >= run.steps)
      refuse("rungs must ascend and end before the run does", fmt::format("{}: rungs, run {}", file_.name, run.name),
             fmt::format("step {} behind {} of {}", step, before, run.steps), "each behind the one before",
             "change the rungs, or lengthen the runs");
    if (run.settings.data.validation.empty() && !run.settings.data.is_synthetic())
      refuse("halving compares validation losses", "data.validation", "nothing", "validation tokens",
             "set data.validation");
    return step;
  }

  const SweepFile& file_;
  SweepPlan plan_;
  std::vector<SweepPoint> points_;                                          ///< of the runs that are no trunks
  std::map<std::string, size_t> by_name_ = {{"ledger", 0}, {"trunks", 0}};  ///< folders that the sweep has
};

}  // namespace

Settings without_place(Settings settings) {
  const RunSettings usual;
  settings.run.directory.clear();
  settings.run.branch.clear();
  settings.run.threads = usual.threads;
  settings.run.progress = usual.progress;
  settings.run.checkpoint = {};
  return settings;
}

size_t SweepPlan::going_on(size_t on_rung) const {
  constexpr double rounding = 1e-9;  // of shares: a third of three is one
  return std::max<size_t>(1, static_cast<size_t>(keep * static_cast<double>(on_rung) + rounding));
}

SweepPlan plan_sweep(const SweepFile& file) { return Planner(file).plan(); }

}  // namespace nibble
