#include "trainer/train_step.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "optim/gradient_norm.hpp"
#include "tensor/convert.hpp"
#include "trainer/stopwatch.hpp"
#include "trainer/weight_gather.hpp"

namespace nibble {
namespace {

std::vector<OptimizedParameter> with_gradients(std::vector<OptimizedParameter> parameters, const GradientSum& gradients,
                                               const TrainStepOptions& options, const std::vector<bool>& decay,
                                               UpdateMeter* meter) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    OptimizedParameter& parameter = parameters[i];
    parameter.gradient = options.shard == Shard::none ? gradients.whole()[i] : gradients.own()[i];
    parameter.decay = decay[i];
    parameter.cautious = options.cautious_decay;
    parameter.meter = meter;
  }
  return parameters;
}

ExchangePlan exchange_plan(const ShardPlan& plan, const ParameterLayout& layout, const Stream& stream) {
  const Partition& partition = plan.partition();
  ExchangePlan exchanged{.part_elements = {},
                         .group = std::vector<int>(static_cast<size_t>(partition.buckets())),
                         .groups = layout.units(),
                         .turns = plan.turns(),
                         .goes = plan.shard() == Shard::none ? SumGoes::to_all : SumGoes::to_owner,
                         .isa = stream.isa(),
                         .memory = stream.place()};
  for (int bucket = 0; bucket < partition.buckets(); ++bucket) {
    std::vector<int64_t>& parts = exchanged.part_elements.emplace_back(plan.ranks());
    for (int rank = 0; rank < plan.ranks(); ++rank)
      for (const Run& run : partition.runs(bucket, rank)) parts[static_cast<size_t>(rank)] += run.count;
  }
  for (int unit = 0; unit < layout.units(); ++unit)
    for (const int bucket : plan.buckets_of_unit(unit)) exchanged.group[static_cast<size_t>(bucket)] = unit;
  return exchanged;
}

/// Where recipes change.
std::set<int64_t> first_steps(const Precision& precision) {
  std::set<int64_t> steps = {0};
  for (const PrecisionRule& rule : precision.rules()) {
    steps.insert(rule.first_step);
    if (rule.end_step < std::numeric_limits<int64_t>::max()) steps.insert(rule.end_step);
  }
  return steps;
}

int buffers(const Llama& model) { return static_cast<int>(model.layout().buffers().size()); }

}  // namespace

TrainStep::TrainStep(Stream& stream, Llama& model, World& world, const TrainStepOptions& options,
                     const std::vector<bool>& decay, const MakeOptimizer& make_optimizer,
                     const MakeExchange& make_exchange)
    : stream_(stream),
      model_(model),
      world_(world),
      options_(options),
      plan_(model.layout(), options.shard, world.rank(), world.size(), options.micro_batches, options.lanes,
            options.gather_codes ? code_bits(model.layout(), model.precision()) : CodeBits()),
      weights_(stream, model, world.thread(), plan_, options.offload_masters),
      exchange_(make_exchange(world.thread(), exchange_plan(plan_, model.layout(), stream))),
      previous_(exchange_->compares_points() ? model.make_weights(Residency::all) : ParameterSet()),
      middle_(exchange_->compares_points() ? model.make_weights(Residency::all) : ParameterSet()),
      gradients_(stream, world.thread().stream(), model, *exchange_, plan_),
      record_(model.layout(), plan_, options.update_groups, options.updates_every),
      optimizer_(make_optimizer(with_gradients(weights_.parameters(), gradients_, options, decay, record_.meter()),
                                {.threads = stream.threads(),
                                 .thread = &world.thread(),
                                 .partition = options.shard == Shard::none ? nullptr : &plan_.partition()})),
      cage_(stream, model, weights_, options.cage),
      qk_clip_(stream, model, weights_, options.qk_clip) {
  for (int rank = 0; rank < plan_.ranks(); ++rank) blocks_.push_back(plan_.partition().blocks_of(rank));
}

TrainStep::~TrainStep() { world_.thread().settle(); }

void TrainStep::fill_masters(const std::function<void(size_t parameter, const Tensor& whole)>& write) {
  weights_.fill(write);
  weights_.publish();
}

void TrainStep::masters_changed() {
  weights_.round();
  weights_.publish();
}

void TrainStep::rehearse(const MicroBatch& batch) {
  for (const int64_t step : first_steps(model_.precision())) {
    model_.loss(weights(), batch, step);
    model_.loss_and_gradients(weights(), batch, {.call = {.step = step, .pass = Pass::training}}, gradients_.memory(0));
    model_.discard();
  }
}

void TrainStep::run_earlier_points(int64_t step, const Batch& batch, double loss_scale) {
  const int points = exchange_->evaluations(step);
  for (int point = 0; point + 1 < points; ++point) {
    gradients_.at_point(point);
    if (point == 1) {
      for (int unit = 0; unit < model_.layout().units(); ++unit) weights().await(unit);  // no pass has done so yet
      for (int buffer = 0; buffer < buffers(model_); ++buffer)
        middle(stream_, previous_.buffer(buffer), weights().buffer(buffer), middle_.buffer(buffer));
    }
    run_micro_batches(step, batch, loss_scale, point == 0 ? previous_ : middle_, nullptr);
  }
  gradients_.at_point(GradientSum::last_point);
}

void TrainStep::keep_point() {
  if (!exchange_->compares_points()) return;
  for (int buffer = 0; buffer < buffers(model_); ++buffer)
    convert(stream_, weights().buffer(buffer), previous_.buffer(buffer));
}

std::vector<LossSums> TrainStep::run_micro_batches(int64_t step, const Batch& batch, double loss_scale,
                                                   const ParameterSet& weights, OperandObserver* observer) {
  const auto tokens = static_cast<size_t>(model_.tokens());
  std::vector<LossSums> losses;
  const int64_t batches = batches_of(batch);
  for (int64_t turn = 0; turn < plan_.turns() * batches; ++turn) {
    const int64_t number = plan_.micro_batch(plan_.rank(), turn, batches);
    const auto part = [&](const std::vector<int32_t>& values) {
      return values.empty() ? std::span<const int32_t>()
                            : std::span(values).subspan(static_cast<size_t>(number) * tokens, tokens);
    };
    const MicroBatch micro_batch{part(batch.inputs), part(batch.targets), part(batch.document_starts)};
    const BackwardOptions backward{.call = {.step = step,
                                            .micro_batch = number,
                                            .pass = Pass::training,
                                            .observer = number == 0 ? observer : nullptr},
                                   .loss_scale = static_cast<float>(loss_scale),
                                   .z_loss = static_cast<float>(options_.z_loss),
                                   .ready = [&](int buffer) { gradients_.take(turn, buffer); }};
    losses.push_back(model_.loss_and_gradients(weights, micro_batch, backward, gradients_.memory(turn)));
  }
  return losses;
}

int64_t TrainStep::batches_of(const Batch& batch) const {
  return std::ssize(batch.inputs) / (plan_.micro_batches() * model_.tokens());
}

void TrainStep::agree(const std::vector<LossSums>& losses, double counted_tokens, StepResult& result) {
  const auto turns = std::ssize(losses);
  const int64_t batches = turns / plan_.turns();
  const int64_t terms = options_.z_loss > 0 ? 2 : 1;
  std::vector<double> mine;
  for (const LossSums& loss : losses) {
    mine.push_back(loss.cross_entropy);
    if (terms == 2) mine.push_back(loss.squared_log_sum_exp);
  }
  const std::vector<double> squares = gradient_square_sums(stream_, gradients_.own());
  mine.insert(mine.end(), squares.begin(), squares.end());
  std::vector<float*> statistics = model_.statistics();
  for (float& logit : model_.max_logits()) statistics.push_back(&logit);
  for (const float* statistic : statistics) mine.push_back(*statistic);
  std::vector<int64_t> counts;
  int64_t total = 0;
  for (const std::vector<int64_t>& blocks : blocks_)
    total += counts.emplace_back(terms * turns + std::ssize(blocks) + std::ssize(statistics));
  std::vector<double> all(static_cast<size_t>(total));
  world_.thread().run([&](Communicator& ranks) { gather_all(ranks, mine, counts, all); });

  std::vector<double> loss_of(static_cast<size_t>(plan_.micro_batches() * batches)), square_lse_of(loss_of.size());
  std::vector<double> square_of(static_cast<size_t>(plan_.partition().blocks()));
  auto next = all.begin();
  for (int rank = 0; rank < plan_.ranks(); ++rank) {
    for (int64_t turn = 0; turn < turns; ++turn) {
      const auto micro_batch = static_cast<size_t>(plan_.micro_batch(rank, turn, batches));
      loss_of[micro_batch] = *next++;
      if (terms == 2) square_lse_of[micro_batch] = *next++;
    }
    for (const int64_t block : blocks_[static_cast<size_t>(rank)]) square_of[static_cast<size_t>(block)] = *next++;
    for (float* statistic : statistics) *statistic = std::max(*statistic, static_cast<float>(*next++));
  }
  result.loss = sum_in_lanes(loss_of, plan_.lanes()) / counted_tokens;  // 0 / 0 where no token counts
  result.z_loss = options_.z_loss * sum_in_lanes(square_lse_of, plan_.lanes()) / counted_tokens;
  result.gradient_norm = gradient_norm(square_of);
  result.max_logit = std::ranges::max(model_.max_logits());
  result.refused = !(std::isfinite(result.loss) && std::isfinite(result.gradient_norm));
}

StepResult TrainStep::run(int64_t step, const Batch& batch, OperandObserver* observer) {
  StepResult result;
  Stopwatch watch;
  CommunicationThread& thread = world_.thread();
  double waited = thread.totals().seconds_waited;
  // The phase's seconds without those in which it waited for other ranks.
  const auto lap = [&] {
    const double waits = thread.totals().seconds_waited - std::exchange(waited, thread.totals().seconds_waited);
    result.seconds.exchange += waits;
    return watch.lap() - waits;
  };
  result.learning_rate = learning_rate(options_.schedule, step);
  world_.at(step, "forward and backward pass");
  exchange_->start(step);
  gradients_.start(batches_of(batch));
  const auto counted = static_cast<double>(batch.loss_tokens);
  const double loss_scale = counted > 0 ? 1 / counted : 0;
  run_earlier_points(step, batch, loss_scale);
  model_.forget_max_logits();
  const std::vector<LossSums> losses = run_micro_batches(step, batch, loss_scale, weights(), observer);
  result.seconds.forward_backward = lap();

  world_.at(step, "gradient exchange");
  exchange_->finish();
  result.exchange = exchange_->report();
  agree(losses, counted, result);
  world_.at(step, "update");
  if (result.refused) {
    exchange_->discard();
    model_.discard();
  } else {
    keep_point();
    cage_.pull(step, result.learning_rate);
    record_.start(step);
    const uint64_t sent = thread.totals().bytes_sent;
    optimizer_->step(stream_, {.step = ++updates_,
                               .learning_rate = result.learning_rate,
                               .gradient_scale = clip_factor(result.gradient_norm, options_.clip)});
    result.matrix_bytes = static_cast<int64_t>(thread.totals().bytes_sent - sent);
    result.updates = record_.finish(thread, result.learning_rate);
    result.clipped_heads = qk_clip_.apply(model_.max_logits());
    weights_.publish();
    exchange_->commit();
    model_.commit();
  }
  result.seconds.optimizer = lap();
  const CommunicationThread::Totals after = thread.totals(), before = std::exchange(accounted_, after);
  result.seconds.communication = after.seconds_busy - before.seconds_busy;
  result.bytes_sent = static_cast<int64_t>(after.bytes_sent - before.bytes_sent) + result.exchange.bytes_played;
  return result;
}

void TrainStep::state(StateList& list) {
  weights_.state(list);
  optimizer_->state(list);
  model_.state(list);
  exchange_->state(list);
  for (size_t i = 0; i < previous_.size(); ++i)
    list.add("previous_weights/" + model_.layout().parameters()[i].name, previous_[i]);
  list.add_scalar("trainer/updates", updates_);
}

}  // namespace nibble
