// The dense exchange, whose steps a test can disturb.
#pragma once

#include <functional>
#include <memory>

#include "trainer/train_step.hpp"

namespace nibble::test {

class ScriptedExchange final : public GradientExchange {
 public:
  struct Script {
    std::function<void(int64_t step, int bucket, const Parts& gradient)> on_begin{};
    std::function<void(int64_t step)> on_finish{};
  };

  ScriptedExchange(Script script, std::unique_ptr<GradientExchange> exchange)
      : script_(std::move(script)), exchange_(std::move(exchange)) {}

  std::string description() const override { return exchange_->description(); }
  void start(int64_t step) override { exchange_->start(step_ = step); }
  void begin(int bucket, const Parts& gradient, const Consume& fold) override {
    if (script_.on_begin) script_.on_begin(step_, bucket, gradient);
    exchange_->begin(bucket, gradient, fold);
  }
  void wait(int bucket) override { exchange_->wait(bucket); }
  void finish() override {
    if (script_.on_finish) script_.on_finish(step_);
    exchange_->finish();
  }
  void commit() override {
    ++commits;
    exchange_->commit();
  }
  void discard() override {
    ++discards;
    exchange_->discard();
  }
  void state(StateList& list) override { exchange_->state(list); }

  int commits = 0, discards = 0;

 private:
  Script script_;
  std::unique_ptr<GradientExchange> exchange_;
  int64_t step_ = 0;
};

/// Writes `poison` into the gradient of `bucket` in the steps that `when` picks.
inline ScriptedExchange::Script poisoned(float poison, int bucket, std::function<bool(int64_t step)> when) {
  return {.on_begin = [=](int64_t step, int begun, const Parts& gradient) {
    if (begun != bucket || !when(step)) return;
    for (const Pieces& pieces : gradient)
      if (!pieces.empty()) *reinterpret_cast<float*>(pieces.front().data()) = poison;
  }};
}

/// Makes the exchange of a step that the script disturbs.
inline MakeExchange disturbed(const ScriptedExchange::Script& script) {
  return [=](CommunicationThread& thread, const ExchangePlan& plan) {
    return std::make_unique<ScriptedExchange>(script, make_dense_exchange(thread, Wire::f32, plan.goes));
  };
}

}  // namespace nibble::test
