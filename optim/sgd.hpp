// Stochastic gradient descent with momentum, in the form of torch.optim.SGD, and decoupled weight decay:
//   w *= 1 - lr wd;   m = momentum m + g;   w -= lr m
#pragma once

#include <optional>
#include <vector>

#include "optim/kernels.hpp"
#include "optim/offloaded_state.hpp"
#include "optim/optimizer.hpp"

namespace nibble {

struct SgdSettings {
  double momentum = 0.9;      ///< 0: none, and no memory for it
  double weight_decay = 0.1;  ///< for parameters with `decay`
  MomentSettings moments{};
};

class Sgd final : public Optimizer {
 public:
  /// Allocates the momenta, zero. Throws Error{configuration} for a momentum outside [0, 1) or a negative weight decay.
  Sgd(std::vector<OptimizedParameter> parameters, const SgdSettings& settings);

  void step(Stream& stream, const StepContext& context) override;
  /// "optimizer/momentum/NAME" (Moment::state).
  void state(StateList& list) override;

 private:
  std::vector<OptimizedParameter> parameters_;
  SgdSettings settings_;
  std::vector<TensorBlock> blocks_;
  std::vector<Moment> momenta_;  ///< empty without momentum
  MomentMemory memory_;
  std::optional<OffloadedState> offloaded_;
};

}  // namespace nibble
