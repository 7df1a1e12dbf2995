// An exchange of one process whose steps a test can disturb.
#pragma once

#include <functional>
#include <memory>

#include "comm/exchange.hpp"

namespace nibble::test {

class ScriptedExchange final : public GradientExchange {
 public:
  struct Script {
    std::function<void(int64_t step, int bucket, const Tensor& gradient)> on_begin{};
    std::function<void(int64_t step)> on_finish{};
    std::function<bool(int64_t step, bool mine)> on_all{};  ///< what all ranks agree on
  };

  explicit ScriptedExchange(Script script) : script_(std::move(script)) {}

  int evaluations(int64_t) const override { return 1; }
  void start(int64_t step) override { step_ = step; }
  void begin(int bucket, const Tensor& gradient) override {
    if (script_.on_begin) script_.on_begin(step_, bucket, gradient);
  }
  void finish() override {
    if (script_.on_finish) script_.on_finish(step_);
  }
  double sum(double value) override { return value; }
  bool all(bool mine) override { return script_.on_all ? script_.on_all(step_, mine) : mine; }
  void commit() override { ++commits; }
  void discard() override { ++discards; }
  void state(StateList&) override {}

  int commits = 0, discards = 0;

 private:
  Script script_;
  int64_t step_ = 0;
};

/// Writes `poison` into the gradient of `bucket` in the steps that `when` picks.
inline ScriptedExchange::Script poisoned(float poison, int bucket, std::function<bool(int64_t step)> when) {
  return {.on_begin = [=](int64_t step, int begun, const Tensor& gradient) {
    if (begun == bucket && when(step)) gradient.as<float>()[0] = poison;
  }};
}

}  // namespace nibble::test
