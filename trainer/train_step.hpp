// One optimizer step: micro-batches, lanes, exchange, clipping, update; refused if anything is not finite.
//
// Not for: where batches come from and where results go (training_run.hpp).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/exchange.hpp"
#include "data/loader.hpp"
#include "model/llama.hpp"
#include "optim/optimizer.hpp"
#include "optim/schedule.hpp"
#include "comm/lanes.hpp"

namespace nibble {

/// Seconds of a step by phase.
struct StepSeconds {
  double forward_backward = 0;
  double exchange = 0;   ///< waiting for it after the backward pass
  double optimizer = 0;  ///< norm, clipping and update
};

struct StepResult {
  double loss = 0;  ///< nats, mean over the step's counted tokens
  double gradient_norm = 0;
  double learning_rate = 0;
  bool refused = false;  ///< loss or gradient was not finite, or no token counted: nothing changed
  StepSeconds seconds;
};

struct TrainStepOptions {
  int64_t micro_batches = 1;  ///< of one step
  int64_t lanes = 4;
  double clip = 0;  ///< largest gradient norm; 0: no clipping
  ScheduleSettings schedule;
};

/// Makes the optimizer of a list of parameters.
using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(std::vector<OptimizedParameter>)>;

class TrainStep {
 public:
  /// `decay` as weight_decay_mask() returns it. `stream` and `model` must outlive the object.
  TrainStep(Stream& stream, Llama& model, const TrainStepOptions& options, const std::vector<bool>& decay,
            const MakeOptimizer& make_optimizer, std::unique_ptr<GradientExchange> exchange);

  /// The masters (f32, packed): whoever fills them calls `masters_changed` afterwards.
  ParameterSet& masters() { return masters_; }
  void masters_changed();
  /// The model's working copy.
  const ParameterSet& weights() const { return weights_; }

  /// Runs step `step` (counted from 0) on a batch of micro_batches x the model's sequences.
  StepResult run(int64_t step, const Batch& batch);

  /// Weights, optimizer, linear operators, exchange, and the number of updates.
  void state(StateList& list);

 private:
  /// The sum of the losses in nats; each token's gradient is multiplied with `loss_scale`.
  double run_micro_batches(int64_t step, const Batch& batch, double loss_scale);

  Stream& stream_;
  Llama& model_;
  TrainStepOptions options_;
  std::vector<MicroBatchSum> plan_;
  ParameterSet masters_, weights_;
  std::vector<ParameterSet> gradients_;  ///< by slot
  std::vector<OptimizedParameter> parameters_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<GradientExchange> exchange_;
  int64_t updates_ = 0;
};

}  // namespace nibble
