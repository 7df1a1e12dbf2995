#include "trainer/sweep_run.hpp"

#include <memory>

#include "tensor/caught_error.hpp"
#include "tensor/error.hpp"
#include "trainer/metrics_reader.hpp"

namespace nibble {
namespace {

/// Whether the same run could begin on another machine, or later.
bool is_of_the_machine(const Error& error) {
  constexpr const char* of_tuning = "tuning";  // checkpoint_tuning.cpp
  return error.kind() == ErrorKind::resource || error.kind() == ErrorKind::data ||
         error.kind() == ErrorKind::communication ||
         (error.kind() == ErrorKind::configuration && error.detail().where == of_tuning);
}

std::unique_ptr<TrainingRun> begin(const Settings& settings, const TrainingRunOptions& options) {
  try {
    return std::make_unique<TrainingRun>(settings, options);
  } catch (...) {
    const Error error = caught_error();
    if (is_of_the_machine(error)) throw NotHere{error};
    throw error;
  }
}

}  // namespace

TrainingRun::Outcome run_task(World& world, const SweepPlan& plan, const SweepTask& task, SweepClaim* claim,
                              bool retune) {
  const SweepRun& run = plan.runs[task.run];
  std::unique_ptr<TrainingRun> training =
      begin(run.settings,
            {.world = &world,
             .resume = true,
             .retune = retune,
             .stop_at = task.until,
             .kept_steps = run.kept_steps,
             .require_ownership =
                 [claim] {
                   if (claim) claim->renew();
                 },
             .on_progress =
                 [claim](const ProgressState& state) {
                   if (claim)
                     claim->progress({.step = state.step, .loss = state.loss, .seconds_left = state.seconds_left});
                 }});
  TrainingRun::Outcome outcome{};
  std::optional<Error> failure;
  try {
    outcome = training->run();
  } catch (...) {
    failure = caught_error();
  }
  training.reset();  // while nothing is thrown: then it would abandon the other ranks, which fail alike and go on
  if (failure) throw *failure;
  return outcome;
}

std::optional<double> validation_loss_at(const std::filesystem::path& run, int64_t step) {
  std::optional<double> loss;
  read_metrics(metrics_path(run), [&](MetricJson&& row) {
    const auto found = row.find("validation_loss");
    if (step_of(row) == step && found != row.end()) loss = number_of(*found);
  });
  return loss;
}

}  // namespace nibble
