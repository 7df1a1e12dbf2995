#include "trainer/sweep_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble {
namespace {

using Kind = LedgerEntry::Kind;

struct Candidate {
  size_t run;
  double loss;  ///< infinite where it is no number or the run has failed
};

/// Of a rung whose tasks have all ended: the runs that go on, by run.
std::vector<bool> survivors(const SweepPlan& plan, size_t rung, std::span<const TaskState> states,
                            std::span<const std::optional<LedgerEntry>> entries) {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < plan.tasks.size(); ++i) {
    const SweepTask& task = plan.tasks[i];
    if (task.rung != rung || states[i] == TaskState::stopped) continue;
    const bool known = states[i] == TaskState::finished && entries[i]->loss && std::isfinite(*entries[i]->loss);
    candidates.push_back({task.run, known ? *entries[i]->loss : std::numeric_limits<double>::infinity()});
  }
  std::ranges::stable_sort(candidates, {}, &Candidate::loss);
  std::vector<bool> goes_on(plan.runs.size());
  for (size_t i = 0; i < std::min(plan.going_on(candidates.size()), candidates.size()); ++i)
    goes_on[candidates[i].run] = true;
  return goes_on;
}

}  // namespace

const char* name(TaskState state) {
  constexpr const char* names[] = {"waiting", "free", "running", "finished", "failed", "stopped"};
  return names[static_cast<size_t>(state)];
}

std::vector<TaskState> task_states(const SweepPlan& plan, std::span<const std::optional<LedgerEntry>> entries,
                                   const SweepLedger& ledger) {
  std::vector<TaskState> states;
  std::vector<bool> goes_on;   // from the rung before
  bool rung_has_ended = true;  // the one before
  bool ended_so_far = true;    // of this rung
  size_t rung = 0;
  for (size_t i = 0; i < plan.tasks.size(); ++i) {
    const SweepTask& task = plan.tasks[i];
    if (task.rung != rung) {  // tasks are ordered by rungs
      rung_has_ended = rung_has_ended && ended_so_far;
      if (rung_has_ended) goes_on = survivors(plan, rung, states, entries);
      rung = task.rung;
      ended_so_far = true;
    }
    const auto state = [&] {
      if (entries[i] && ledger.has_ended(*entries[i]))
        return entries[i]->kind == Kind::finished ? TaskState::finished : TaskState::failed;
      if (task.after && states[*task.after] == TaskState::failed) return TaskState::failed;
      if (task.after && states[*task.after] == TaskState::stopped) return TaskState::stopped;
      if (task.after && states[*task.after] != TaskState::finished) return TaskState::waiting;
      if (task.rung > 0 && !rung_has_ended) return TaskState::waiting;
      if (task.rung > 0 && !goes_on[task.run]) return TaskState::stopped;
      if (entries[i] && (entries[i]->kind == Kind::claimed || entries[i]->kind == Kind::renewed))
        return TaskState::claimed;
      return TaskState::free;
    }();
    states.push_back(state);
    ended_so_far = ended_so_far && has_ended(state);
  }
  return states;
}

std::vector<size_t> current_tasks(const SweepPlan& plan, std::span<const TaskState> states) {
  std::vector<std::optional<size_t>> current(plan.runs.size());
  for (size_t i = 0; i < plan.tasks.size(); ++i) {
    std::optional<size_t>& task = current[plan.tasks[i].run];
    if (!task || states[*task] == TaskState::finished) task = i;
  }
  std::vector<size_t> tasks;
  for (const std::optional<size_t>& task : current) tasks.push_back(*task);
  return tasks;
}

}  // namespace nibble
