// One optimizer step: micro-batches, lanes, exchange, clipping, update; refused if anything is not finite.
//
// All ranks take the same decisions, from numbers that each step gathers from all of them.
// Not for: where batches come from and where results go (training_run.hpp).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/exchange.hpp"
#include "comm/world.hpp"
#include "data/loader.hpp"
#include "model/llama.hpp"
#include "optim/optimizer.hpp"
#include "optim/schedule.hpp"
#include "trainer/cage.hpp"
#include "trainer/gradient_sum.hpp"
#include "trainer/qk_clip.hpp"
#include "trainer/shard_plan.hpp"
#include "trainer/sharded_weights.hpp"
#include "trainer/update_record.hpp"

namespace nibble {

/// Seconds of a step by phase.
struct StepSeconds {
  double forward_backward = 0;
  double exchange = 0;       ///< waiting for other ranks and for what they send, in whatever phase
  double optimizer = 0;      ///< norm, clipping and update
  double communication = 0;  ///< the communication thread's work since the step before, most of it beside computation
};

struct StepResult {
  double loss = 0;    ///< cross-entropy in nats, mean over the step's counted tokens
  double z_loss = 0;  ///< what z-loss adds to it in the objective; 0 where there is none
  double gradient_norm = 0;
  double max_logit = 0;       ///< of attention, the largest over layers, heads and tokens of the forward pass
  int64_t clipped_heads = 0;  ///< by QK-clip
  double learning_rate = 0;
  bool refused = false;    ///< loss or gradient was not finite, or no token counted: nothing changed
  int64_t bytes_sent = 0;  ///< by this rank, since the step before: weights still travel when a step returns
  StepSeconds seconds;
  ExchangeReport exchange;
  int64_t matrix_bytes = 0;              ///< of bytes_sent: matrices on their way to be orthogonalised, and back
  std::vector<UpdateFigures> updates{};  ///< where the step is recorded
};

struct TrainStepOptions {
  int64_t micro_batches = 1;  ///< of one step, of all ranks
  int64_t lanes = 4;
  Shard shard = Shard::none;
  bool offload_masters = false;  ///< to the host of a device's stream
  bool gather_codes = false;     ///< with Shard::parameters: of weights that have them (weight_gather.hpp)
  double clip = 0;               ///< largest gradient norm; 0: no clipping
  bool cautious_decay = false;   ///< of the parameters that decay (OptimizedParameter)
  double z_loss = 0;             ///< coefficient of z-loss (TokenObjective); 0: none
  double qk_clip = 0;            ///< largest logit of attention (QkClip); 0: none
  ScheduleSettings schedule;
  CageSettings cage{};
  std::vector<UpdateGroup> update_groups{};  ///< whose updates are recorded
  int64_t updates_every = 0;                 ///< steps between their records; 0: none
};

/// Makes the optimizer of a list of parameters: all of them, or this rank's runs as the shares say.
using MakeOptimizer =
    std::function<std::unique_ptr<Optimizer>(std::vector<OptimizedParameter>, const ParameterShares&)>;
using MakeExchange = std::function<std::unique_ptr<GradientExchange>(CommunicationThread&, const ExchangePlan&)>;

class TrainStep {
 public:
  /// `decay` as weight_decay_mask() returns it. `stream`, `model` and `world` must outlive the object.
  /// Throws Error{configuration} when the ranks do not divide the lanes or the micro-batches, and for QK-clip of a
  /// model with QK-norm.
  TrainStep(Stream& stream, Llama& model, World& world, const TrainStepOptions& options, const std::vector<bool>& decay,
            const MakeOptimizer& make_optimizer, const MakeExchange& make_exchange);
  /// Waits for what is still being sent.
  ~TrainStep();

  const ShardPlan& plan() const { return plan_; }

  /// How gradients travel.
  std::string exchange() const { return exchange_->description(); }

  /// See ShardedWeights::fill. All ranks call it.
  void fill_masters(const std::function<void(size_t parameter, const Tensor& whole)>& write);
  /// After the state was loaded. All ranks call it.
  void masters_changed();
  /// The model's working copy.
  const ParameterSet& weights() const { return weights_.working(); }

  /// Multiplies what the passes of steps multiply, at each point where that changes, and changes nothing: so that a
  /// device's algorithms are chosen. A micro-batch of any content. All ranks call it.
  void rehearse(const MicroBatch& batch);

  /// Of how many batches the gradient of a step is.
  int64_t batches(int64_t step) const { return exchange_->batches(step); }

  /// Runs step `step` (counted from 0) on the batches of all ranks, each micro_batches x the model's sequences.
  /// `observer` (if given) is told of the operands of micro-batch 0, by the rank that has it.
  StepResult run(int64_t step, const Batch& batch, OperandObserver* observer = nullptr);

  /// Weights, optimizer, linear operators, exchange, and the number of updates.
  void state(StateList& list);

 private:
  /// The losses of this rank's micro-batches at `weights`; each token's gradient is multiplied with `loss_scale`.
  std::vector<LossSums> run_micro_batches(int64_t step, const Batch& batch, double loss_scale,
                                          const ParameterSet& weights, OperandObserver* observer);
  /// The gradients at the points before the current weights, for exchanges that compare them.
  void run_earlier_points(int64_t step, const Batch& batch, double loss_scale);
  /// The current weights become the previous ones.
  void keep_point();
  int64_t batches_of(const Batch& batch) const;
  /// Fills in losses and gradient norm, the same on every rank, and the model's statistics and logits, the largest of
  /// all ranks.
  void agree(const std::vector<LossSums>& losses, double counted_tokens, StepResult& result);

  Stream& stream_;
  Llama& model_;
  World& world_;
  TrainStepOptions options_;
  ShardPlan plan_;
  ShardedWeights weights_;
  std::unique_ptr<GradientExchange> exchange_;
  ParameterSet previous_, middle_;  ///< points that the exchange compares: the step's before, and halfway from there
  GradientSum gradients_;
  UpdateRecord record_;
  std::unique_ptr<Optimizer> optimizer_;
  Cage cage_;
  QkClip qk_clip_;
  std::vector<std::vector<int64_t>> blocks_;  ///< by rank: the blocks of the gradient that it owns
  int64_t updates_ = 0;
  CommunicationThread::Totals accounted_;  ///< of the steps so far
};

}  // namespace nibble
