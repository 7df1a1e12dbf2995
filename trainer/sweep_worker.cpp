#include "trainer/sweep_worker.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tensor/error.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/sweep_run.hpp"
#include "trainer/sweep_state.hpp"

namespace nibble {
namespace {

constexpr std::chrono::milliseconds between_looks(500);

template <class... Arguments>
void say(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fmt::print(stderr, "sweep    {}\n", fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// A full disk ends the process: what it would fail next would be marked as failed, too.
bool ends_the_process(const Error& error) {
  return error.kind() == ErrorKind::resource || error.kind() == ErrorKind::communication;
}

class Worker {
 public:
  Worker(World& world, const SweepPlan& plan, SweepLedger& ledger, bool retune)
      : world_(world), plan_(plan), ledger_(ledger), retune_(retune) {}

  StopWish work() {
    const InterruptScope signals;
    for (;;) {
      const auto wish =
          static_cast<StopWish>(largest_of_all(world_, {static_cast<double>(InterruptScope::wish())}).front());
      if (wish != StopWish::none) return wish;
      // "done", "wait", or the number of a task.
      const std::string said = gather_all(world_, world_.is_first() ? choose() : "").front();
      if (said == "done") return StopWish::none;
      if (said == "wait") {
        std::this_thread::sleep_for(between_looks);
        continue;
      }
      size_t task = 0;
      std::from_chars(said.data(), said.data() + said.size(), task);
      const TrainingRun::Outcome outcome = run(plan_.tasks[task]);
      if (outcome == TrainingRun::Outcome::interrupted) return StopWish::interrupt;
      if (outcome == TrainingRun::Outcome::requeue) return StopWish::requeue;
    }
  }

 private:
  std::string choose() {
    std::vector<std::optional<LedgerEntry>> entries;
    for (const SweepTask& task : plan_.tasks) entries.push_back(ledger_.look(task.id));
    const std::vector<TaskState> states = task_states(plan_, entries, ledger_);
    size_t ended = 0, elsewhere = 0;
    const Error* obstacle = nullptr;
    for (size_t i = 0; i < states.size(); ++i) {
      ended += has_ended(states[i]);
      if (states[i] != TaskState::free && states[i] != TaskState::claimed) continue;
      if (const auto refused = not_here_.find(i); refused != not_here_.end()) {
        // Somebody who has it may give it back.
        if (states[i] == TaskState::claimed && !ledger_.is_orphaned(*entries[i])) ++elsewhere;
        obstacle = &refused->second;
        continue;
      }
      claim_ = ledger_.claim(plan_.tasks[i].id);
      if (claim_) {
        say("{} ({} of {} done)", plan_.tasks[i].id, ended_of(states), states.size());
        waits_ = false;
        return std::to_string(i);
      }
      ++elsewhere;
    }
    if (ended == states.size()) return "done";
    if (elsewhere == 0 && obstacle) throw *obstacle;
    if (!std::exchange(waits_, true)) say("waiting for the {} that other processes have", elsewhere);
    return "wait";
  }

  static size_t ended_of(const std::vector<TaskState>& states) {
    return static_cast<size_t>(std::ranges::count_if(states, [](TaskState state) { return has_ended(state); }));
  }

  TrainingRun::Outcome run(const SweepTask& task) {
    const std::unique_ptr<SweepClaim> claim = std::move(claim_);  // null but on the first rank
    try {
      const TrainingRun::Outcome outcome = run_task(world_, plan_, task, claim.get(), retune_);
      const bool reached = outcome == TrainingRun::Outcome::finished || outcome == TrainingRun::Outcome::paused;
      if (claim && reached) claim->finish(validation_loss_at(plan_.runs[task.run].settings.run.directory, task.until));
      return outcome;
    } catch (const NotHere& obstacle) {
      if (world_.size() > 1) throw obstacle.error;
      say("{} cannot begin here: {}", task.id, obstacle.error.detail().what);
      not_here_.emplace(static_cast<size_t>(&task - plan_.tasks.data()), obstacle.error);
      return TrainingRun::Outcome::finished;
    } catch (const Error& error) {
      if (claim && claim->lost()) throw;
      const bool all_ranks = world_.size() == 1 || error.kind() == ErrorKind::numerics;
      if (ends_the_process(error)) throw;
      if (claim) {
        claim->fail(error);
        say("{} failed, try {}: {}", task.id, claim->failures() + 1, error.what());
      }
      if (!all_ranks) throw;
      return TrainingRun::Outcome::finished;
    }
  }

  World& world_;
  const SweepPlan& plan_;
  SweepLedger& ledger_;
  bool retune_;
  bool waits_ = false;
  std::unique_ptr<SweepClaim> claim_;  ///< of the task that was chosen; the first rank's
  std::map<size_t, Error> not_here_;
};

}  // namespace

StopWish work_on(World& world, const SweepPlan& plan, SweepLedger& ledger, bool retune) {
  return Worker(world, plan, ledger, retune).work();
}

}  // namespace nibble
