#include "trainer/train_step.hpp"

#include <cmath>

#include "optim/gradient_norm.hpp"
#include "tensor/convert.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {

TrainStep::TrainStep(Stream& stream, Llama& model, const TrainStepOptions& options, const std::vector<bool>& decay,
                     const MakeOptimizer& make_optimizer, std::unique_ptr<GradientExchange> exchange)
    : stream_(stream),
      model_(model),
      options_(options),
      plan_(plan_lanes(options.micro_batches, options.lanes)),
      masters_(model.layout(), DType::f32, DType::f32, false, "master weights"),
      weights_(model.make_weights()),
      exchange_(std::move(exchange)) {
  for (int slot = 0; slot < slots_of(plan_); ++slot) gradients_.push_back(model.make_gradients());
  parameters_ = optimized_parameters(model.layout(), masters_, gradients_.front(), weights_, decay);
  optimizer_ = make_optimizer(parameters_);
}

void TrainStep::masters_changed() { refresh_working_copies(stream_, parameters_); }

double TrainStep::run_micro_batches(int64_t step, const Batch& batch, double loss_scale) {
  const auto tokens = static_cast<size_t>(model_.tokens());
  std::vector<double> losses(gradients_.size());  // by slot: summed in the tree of the gradients
  for (size_t m = 0; m < plan_.size(); ++m) {
    const MicroBatchSum& sum = plan_[m];
    const auto part = [&](const std::vector<int32_t>& values) {
      return values.empty() ? std::span<const int32_t>() : std::span(values).subspan(m * tokens, tokens);
    };
    const MicroBatch micro_batch{part(batch.inputs), part(batch.targets), part(batch.document_starts)};
    const bool last = m + 1 == plan_.size();
    const auto ready = [&](int buffer) {
      for (const MicroBatchSum::Join& join : sum.joins)
        add(stream_, gradients_[static_cast<size_t>(join.from)].buffer(buffer),
            gradients_[static_cast<size_t>(join.into)].buffer(buffer));
      if (last) exchange_->begin(buffer, gradients_.front().buffer(buffer));
    };
    const BackwardOptions backward{.call = {.step = step, .micro_batch = sum.micro_batch, .pass = Pass::training},
                                   .loss_scale = static_cast<float>(loss_scale),
                                   .accumulate = sum.accumulate,
                                   .ready = ready};
    const auto slot = static_cast<size_t>(sum.slot);
    const double loss = model_.loss_and_gradients(weights_, micro_batch, backward, gradients_[slot]);
    losses[slot] = sum.accumulate ? losses[slot] + loss : loss;
    for (const MicroBatchSum::Join& join : sum.joins)
      losses[static_cast<size_t>(join.into)] += losses[static_cast<size_t>(join.from)];
  }
  return losses.front();
}

StepResult TrainStep::run(int64_t step, const Batch& batch) {
  StepResult result;
  Stopwatch watch;
  result.learning_rate = learning_rate(options_.schedule, step);
  exchange_->start(step);
  const double counted = exchange_->sum(static_cast<double>(batch.loss_tokens));
  const double loss_sum = run_micro_batches(step, batch, counted > 0 ? 1 / counted : 0);
  result.seconds.forward_backward = watch.lap();
  exchange_->finish();
  result.loss = exchange_->sum(loss_sum) / counted;  // 0 / 0 where no token counts
  result.seconds.exchange = watch.lap();

  result.gradient_norm = gradient_norm(stream_, parameters_);
  result.refused = !exchange_->all(std::isfinite(result.loss) && std::isfinite(result.gradient_norm));
  if (result.refused) {
    exchange_->discard();
    model_.discard();
  } else {
    optimizer_->step(stream_, {.step = ++updates_,
                               .learning_rate = result.learning_rate,
                               .gradient_scale = clip_factor(result.gradient_norm, options_.clip)});
    exchange_->commit();
    model_.commit();
  }
  result.seconds.optimizer = watch.lap();
  return result;
}

void TrainStep::state(StateList& list) {
  for (size_t i = 0; i < parameters_.size(); ++i)
    list.add(weights_prefix + model_.layout().parameters()[i].name, masters_[i]);
  optimizer_->state(list);
  model_.state(list);
  exchange_->state(list);
  list.add_scalar("trainer/updates", updates_);
}

}  // namespace nibble
