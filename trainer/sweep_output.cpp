#include "trainer/sweep_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "trainer/progress.hpp"

namespace nibble {
namespace {

using nlohmann::ordered_json;

std::string state_text(const RunStatus& run) {
  if (run.state == TaskState::claimed && run.orphaned) return "killed";
  return run.state == TaskState::free && run.step > 0 ? "paused" : name(run.state);
}

int64_t own_steps(const SweepRun& run) { return run.steps - run.first_step; }

}  // namespace

SweepStatus status_of(const SweepPlan& plan, SweepLedger& ledger, const std::vector<double>& seconds) {
  std::vector<std::optional<LedgerEntry>> entries;
  for (const SweepTask& task : plan.tasks) entries.push_back(ledger.look(task.id));
  const std::vector<TaskState> states = task_states(plan, entries, ledger);
  SweepStatus status;
  std::set<std::string> workers;
  double left_alone = 0;  // seconds of one process
  bool known = true;
  const std::vector<size_t> current = current_tasks(plan, states);
  std::map<size_t, int64_t> reached;  // by run
  for (size_t i = 0; i < plan.tasks.size(); ++i)
    if (states[i] == TaskState::finished) reached[plan.tasks[i].run] = plan.tasks[i].until;
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const size_t task = current[i];
    const std::optional<LedgerEntry>& entry = entries[task];
    RunStatus run{.state = states[task], .step = std::max(reached[i], plan.runs[i].first_step)};
    if (entry) {
      run.who = describe(entry->holder);
      run.loss = entry->loss;
      run.message = entry->message;
      if (const std::optional<LedgerProgress> progress = ledger.progress_of(plan.tasks[task].id, *entry);
          progress && run.state != TaskState::finished && progress->step > run.step) {
        run.step = progress->step;
        run.loss = progress->loss;
        run.seconds_left = progress->seconds_left;
      }
      run.orphaned = run.state == TaskState::claimed && ledger.is_orphaned(*entry);
      if (run.state == TaskState::claimed && !run.orphaned) workers.insert(describe(entry->holder));
    }
    const auto whole = static_cast<double>(own_steps(plan.runs[i]));
    const auto done = static_cast<double>(run.step - plan.runs[i].first_step);
    status.steps += has_ended(run.state) ? done : whole;
    status.steps_done += done;
    if (!has_ended(run.state)) {
      if (run.state != TaskState::claimed || run.orphaned) run.seconds_left.reset();
      known = known && (run.seconds_left || !seconds.empty());
      if (known) left_alone += run.seconds_left ? *run.seconds_left : seconds[i] * (1 - done / whole);
    }
    status.runs.push_back(std::move(run));
  }
  status.workers = workers.size();
  if (known && status.workers > 0) status.seconds_left = left_alone / static_cast<double>(status.workers);
  return status;
}

std::string status_text(const SweepPlan& plan, const SweepStatus& status) {
  size_t width = 3;
  for (const SweepRun& run : plan.runs) width = std::max(width, run.name.size());
  std::string text =
      fmt::format("{:{}}  {:8}  {:>15}  {:>8}  {:>9}  {}\n", "run", width, "state", "step", "loss", "left", "who");
  std::map<std::string, size_t> counts;
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const RunStatus& run = status.runs[i];
    ++counts[state_text(run)];
    text += fmt::format("{:{}}  {:8}  {:>15}  {:>8}  {:>9}  {}\n", plan.runs[i].name, width, state_text(run),
                        fmt::format("{} of {}", run.step, plan.runs[i].steps),
                        run.loss ? fmt::format("{:.4f}", *run.loss) : "",
                        run.seconds_left ? format_duration(*run.seconds_left) : "",
                        run.message.empty() ? run.who : run.message.substr(0, run.message.find('\n')));
  }
  std::string sum;
  for (const auto& [state, count] : counts) sum += fmt::format("{}{} {}", sum.empty() ? "" : ", ", count, state);
  return text + fmt::format("{} runs: {}; {:.0f}% of the steps, {} at work{}\n", plan.runs.size(), sum,
                            status.steps > 0 ? 100 * status.steps_done / status.steps : 100, status.workers,
                            status.seconds_left ? ", " + format_duration(*status.seconds_left) + " left" : "");
}

ordered_json status_json(const SweepPlan& plan, const SweepStatus& status) {
  const auto or_null = [](const std::optional<double>& value) {
    return value ? ordered_json(*value) : ordered_json(nullptr);
  };
  ordered_json runs = ordered_json::array();
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const RunStatus& run = status.runs[i];
    runs.push_back({{"run", plan.runs[i].name},
                    {"role", plan.runs[i].role_name()},
                    {"state", state_text(run)},
                    {"step", run.step},
                    {"steps", plan.runs[i].steps},
                    {"loss", or_null(run.loss)},
                    {"seconds_left", or_null(run.seconds_left)},
                    {"who", run.who},
                    {"message", run.message}});
  }
  return {{"runs", runs},
          {"workers", status.workers},
          {"steps_done", status.steps_done},
          {"steps", status.steps},
          {"seconds_left", or_null(status.seconds_left)}};
}

}  // namespace nibble
