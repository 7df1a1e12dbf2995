// What a run would take, without training: memory, bytes between ranks, time of a step, and settings that fit.
//
// Not for the text of the answer (trainer/plan_output.hpp).
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "trainer/datasheet_peaks.hpp"
#include "trainer/exchange_comparison.hpp"
#include "trainer/run_memory.hpp"
#include "trainer/step_forecast.hpp"

namespace nibble {

struct PlanOptions {
  int ranks = 1;  ///< of the run; those that exist may be fewer
  /// Of a rank, instead of what the machine has; where the run is on GPUs, of its GPU.
  std::optional<size_t> memory{};
  std::optional<DatasheetPeaks> gpu{};   ///< one that need not be there, for runs on GPUs
  std::optional<ExchangeSpeed> speed{};  ///< instead of what the ranks measure
};

inline constexpr int most_played_ranks = 8;

struct RunPlan {
  int ranks = 1;
  std::string shard;
  int64_t parameters = 0;
  int64_t tokens = 0;                       ///< of a step, of all ranks
  RunMemory memory;                         ///< of rank 0
  AvailableMemory most;                     ///< for a rank; of another machine's host unlimited
  AvailableMemory most_gpu{};               ///< on its GPU, where the run is on GPUs
  std::vector<MemoryCandidate> candidates;  ///< smaller settings, all that help
  StepForecast step;                        ///< of rank 0
  std::optional<DatasheetPeaks> estimate;   ///< from which passes and update follow; none: they were measured
  std::string no_compute;                   ///< why passes and update were not measured, and count as no time
  ExchangeSpeed speed;
  /// What exchanges of all gradients would take, dense in bf16 first, as measured among threads of this process on a
  /// vector of `exchange_values`; of at most most_played_ranks ranks. Last the settings' own if it is compressed.
  std::vector<SumMeasurement> exchanges;
  int played_ranks = 0;
  enum class Speed { none_needed, measured, given, unknown } speed_is = Speed::none_needed;

  MemoryLimits limits() const { return {most.bytes, most_gpu.bytes}; }
  /// Whether the host's memory is that of this machine, or given.
  bool knows_host() const { return most.bytes < std::numeric_limits<size_t>::max(); }
  bool on_gpu() const { return !memory.gpu.empty(); }
  bool fits() const { return limits().hold(memory); }
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

/// All ranks call it; what the first one gets is for all. Runs a few steps of one or two micro-batches on each, unless
/// a GPU is named, which is imagined.
/// Throws Error{configuration} for ranks that do not divide the work, and for a GPU of a run on processors;
/// Error{resource} where a run is on GPUs, none is named, and none is there.
RunPlan make_plan(World& world, const Settings& settings, const PlanOptions& options);

}  // namespace nibble
