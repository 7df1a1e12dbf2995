// What a run would take, without training: memory, bytes between ranks, time of a step, and settings that fit.
//
// Not for the text of the answer (trainer/plan_output.hpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/exchange_comparison.hpp"
#include "trainer/run_memory.hpp"
#include "trainer/step_forecast.hpp"

namespace nibble {

struct PlanOptions {
  int ranks = 1;                         ///< of the run; those that exist may be fewer
  std::optional<size_t> memory{};        ///< of a rank, instead of what the machine has
  std::optional<ExchangeSpeed> speed{};  ///< instead of what the ranks measure
};

inline constexpr int most_played_ranks = 8;

struct RunPlan {
  int ranks = 1;
  std::string shard;
  int64_t parameters = 0;
  int64_t tokens = 0;                       ///< of a step, of all ranks
  RunMemory memory;                         ///< of rank 0
  AvailableMemory most;                     ///< for a rank
  std::vector<MemoryCandidate> candidates;  ///< smaller settings, all that help
  StepForecast step;                        ///< of rank 0
  std::string no_compute;                   ///< why passes and update were not measured, and count as no time
  ExchangeSpeed speed;
  /// What exchanges of all gradients would take, dense in bf16 first, as measured among threads of this process on a
  /// vector of `exchange_values`; of at most most_played_ranks ranks. Last the settings' own if it is compressed.
  std::vector<SumMeasurement> exchanges;
  int played_ranks = 0;
  enum class Speed { none_needed, measured, given, unknown } speed_is = Speed::none_needed;

  bool fits() const { return total(memory.table) <= most.bytes; }
};

/// The settings' shape, or that of the model they start from; data.train is opened only where the vocabulary is that of
/// its tokenizer. Throws as model_config, find_model and TokenData::open.
ModelConfig shape_of(const Settings& settings);

/// What the passes of a micro-batch and an update take on one rank, alone on this machine, measured in a short burst.
struct ComputeTime {
  double micro_batch = 0;  ///< seconds
  double update = 0;
};
/// Throws as measure_step.
ComputeTime measure_compute_alone(const Settings& settings, const ModelConfig& config);

/// All ranks call it; what the first one gets is for all. Runs a few steps of one or two micro-batches on each.
/// Throws Error{configuration} for ranks that do not divide the work.
RunPlan make_plan(World& world, const Settings& settings, const PlanOptions& options);

}  // namespace nibble
