#include "trainer/sweep_cost.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "comm/local_world.hpp"
#include "tensor/error.hpp"
#include "trainer/memory.hpp"
#include "trainer/progress.hpp"
#include "trainer/report_axis.hpp"
#include "trainer/run_memory.hpp"
#include "trainer/run_plan.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {
namespace {

/// What a burst depends on: runs that share it are measured once.
std::string burst_key(const Settings& settings) {
  Settings bare = without_place(settings);
  const Settings usual;
  bare.steps = bare.tokens = 0;
  bare.epochs = 0;
  bare.batch.tokens = 0;
  bare.run.seed = usual.run.seed;
  bare.schedule = usual.schedule;
  bare.validation = usual.validation;
  bare.optimizer.learning_rate = usual.optimizer.learning_rate;
  bare.optimizer.weight_decay = usual.optimizer.weight_decay;
  return settings_yaml(bare);
}

struct Burst {
  ComputeTime time;
  double operations = 0;  ///< of the micro-batch
  double parameters = 0;
};

/// The burst of a run of which there is none, from that of a run of about its size.
ComputeTime scaled(const std::vector<Burst>& bursts, double operations, double parameters) {
  const Burst& nearest = *std::ranges::min_element(
      bursts, {}, [&](const Burst& burst) { return std::abs(std::log(burst.operations / operations)); });
  return {.micro_batch = nearest.time.micro_batch * operations / nearest.operations,
          .update = nearest.time.update * parameters / nearest.parameters};
}

constexpr double seconds_to_measure = 8;  // after which what was measured is scaled

class Estimate {
 public:
  explicit Estimate(const SweepPlan& plan) : plan_(plan) {}

  SweepCost cost() {
    cost_.runs.resize(plan_.runs.size());
    for (size_t i = 0; i < plan_.runs.size(); ++i) shapes_.push_back(shape_of(plan_.runs[i].settings));
    std::vector<size_t> by_size(plan_.runs.size());
    std::iota(by_size.begin(), by_size.end(), size_t{0});
    std::ranges::stable_sort(by_size, {}, [&](size_t run) { return micro_operations(run); });
    for (const size_t run : by_size) estimate(run);
    add_up();
    return std::move(cost_);
  }

 private:
  double micro_operations(size_t run) const {
    const Settings& s = plan_.runs[run].settings;
    return shapes_[run].flops_per_token(s.data.sequence) * static_cast<double>(s.batch.micro * s.data.sequence);
  }

  ComputeTime time_of(size_t run, bool& measured) {
    const Settings& settings = plan_.runs[run].settings;
    const std::string key = burst_key(settings);
    if (const auto found = known_.find(key); found != known_.end()) {
      measured = true;
      return found->second;
    }
    const double operations = micro_operations(run), parameters = static_cast<double>(shapes_[run].parameters());
    if (!bursts_.empty() && watch_.seconds() > seconds_to_measure) return scaled(bursts_, operations, parameters);
    try {
      bursts_.push_back(
          {.time = measure_compute_alone(settings, shapes_[run]), .operations = operations, .parameters = parameters});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::resource) throw;
      // Too large for this machine, which may be another's run.
      return bursts_.empty() ? ComputeTime() : scaled(bursts_, operations, parameters);
    }
    measured = true;
    known_[key] = bursts_.back().time;
    return bursts_.back().time;
  }

  void estimate(size_t index) {
    const SweepRun& run = plan_.runs[index];
    const Settings& settings = run.settings;
    const ModelConfig& config = shapes_[index];
    SweepRunCost& cost = cost_.runs[index];
    cost.parameters = config.parameters();
    cost.steps = run.steps - run.first_step;
    cost.tokens = static_cast<double>(cost.steps * settings.batch.tokens);
    cost.operations = cost.tokens * config.flops_per_token(settings.data.sequence);
    const ComputeTime time = time_of(index, cost.measured);
    const auto turns = static_cast<double>(settings.batch.tokens / (settings.batch.micro * settings.data.sequence));
    cost.seconds = static_cast<double>(cost.steps) * (turns * time.micro_batch + time.update);
    cost.memory = memory_of(settings, config);
  }

  double memory_of(const Settings& settings, const ModelConfig& config) {
    double& bytes = memory_[burst_key(settings)];
    if (bytes == 0) {
      const std::unique_ptr<World> alone = make_local_world();
      Stream stream = run_stream(settings, *alone);
      bytes = static_cast<double>(total(foresee_memory(stream, *alone, settings, config, resident_memory().all).table));
    }
    return bytes;
  }

  /// A rung costs what its runs do on average, times those that are on it.
  void add_up() {
    if (plan_.rungs == 0) {
      for (const SweepRunCost& run : cost_.runs) add(run, 1);
      return;
    }
    size_t on_rung = plan_.runs.size();
    std::vector<int64_t> before(plan_.runs.size());
    for (size_t rung = 0; rung <= plan_.rungs; ++rung) {
      for (const SweepTask& task : plan_.tasks) {
        if (task.rung != rung) continue;
        const double part =
            static_cast<double>(task.until - before[task.run]) / static_cast<double>(cost_.runs[task.run].steps);
        add(cost_.runs[task.run], part * static_cast<double>(on_rung) / static_cast<double>(plan_.runs.size()));
        before[task.run] = task.until;
      }
      on_rung = plan_.going_on(on_rung);
    }
  }

  void add(const SweepRunCost& run, double part) {
    cost_.tokens += part * run.tokens;
    cost_.operations += part * run.operations;
    cost_.seconds += part * run.seconds;
  }

  const SweepPlan& plan_;
  Stopwatch watch_;
  std::vector<ModelConfig> shapes_;
  std::map<std::string, ComputeTime> known_;
  std::map<std::string, double> memory_;
  std::vector<Burst> bursts_;
  SweepCost cost_;
};

}  // namespace

SweepCost cost_of(const SweepPlan& plan) { return Estimate(plan).cost(); }

nlohmann::ordered_json to_json(const SweepPlan& plan, const SweepCost& cost) {
  nlohmann::ordered_json runs = nlohmann::ordered_json::array();
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const SweepRunCost& run = cost.runs[i];
    runs.push_back({{"run", plan.runs[i].name},
                    {"role", plan.runs[i].role_name()},
                    {"parameters", run.parameters},
                    {"steps", run.steps},
                    {"tokens", run.tokens},
                    {"operations", run.operations},
                    {"seconds", run.seconds},
                    {"measured", run.measured},
                    {"memory_bytes", run.memory}});
  }
  return {{"directory", plan.directory.string()},
          {"runs", runs},
          {"tokens", cost.tokens},
          {"operations", cost.operations},
          {"seconds", cost.seconds}};
}

std::string cost_text(const SweepPlan& plan, const SweepCost& cost) {
  size_t width = 5;
  for (const SweepRun& run : plan.runs) width = std::max(width, run.name.size());
  std::string text = fmt::format("{:{}}  {:>10}  {:>7}  {:>7}  {:>9}  {:>10}  {:>10}\n", "run", width, "parameters",
                                 "steps", "tokens", "TFLOP", "time", "memory");
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const SweepRunCost& run = cost.runs[i];
    text += fmt::format("{:{}}  {:>10}  {:>7}  {:>7}  {:>9.4g}  {:>10}  {:>10}\n", plan.runs[i].name, width,
                        compact_number(static_cast<double>(run.parameters)), run.steps, compact_number(run.tokens),
                        run.operations * 1e-12, (run.measured ? "" : "~") + format_duration(run.seconds),
                        format_bytes(static_cast<size_t>(run.memory)));
  }
  return text + fmt::format("{} runs: {} tokens, {:.4g} TFLOP, {} on one process of this machine{}\n", plan.runs.size(),
                            compact_number(cost.tokens), cost.operations * 1e-12, format_duration(cost.seconds),
                            plan.rungs > 0 ? ", with as many on each rung as go on" : "");
}

}  // namespace nibble
