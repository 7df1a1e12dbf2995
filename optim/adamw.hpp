// AdamW: Adam with decoupled weight decay.
//
// Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, in the form of torch.optim.AdamW:
//   w *= 1 - lr wd;   m += (1 - b1)(g - m);   v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
// so epsilon is added after the bias correction of sqrt(v), and the decay is scaled with the scheduled learning rate.
#pragma once

#include <optional>
#include <vector>

#include "optim/kernels.hpp"
#include "optim/offloaded_state.hpp"
#include "optim/optimizer.hpp"

namespace nibble {

struct AdamWSettings {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  ///< for parameters with `decay`
  MomentSettings moments{};
};

/// What `settings` make of one step.
AdamWFactors adamw_factors(const AdamWSettings& settings, const StepContext& context);

class AdamW final : public Optimizer {
 public:
  /// Allocates both moments, zero. Throws Error{configuration} for a beta outside [0, 1), an epsilon <= 0 (an element
  /// whose gradient was always zero would become 0/0) or a negative weight decay.
  AdamW(std::vector<OptimizedParameter> parameters, const AdamWSettings& settings);

  void step(Stream& stream, const StepContext& context) override;
  /// "optimizer/first_moment/NAME" and "optimizer/second_moment/NAME" (Moment::state).
  void state(StateList& list) override;

 private:
  std::vector<OptimizedParameter> parameters_;
  AdamWSettings settings_;
  std::vector<TensorBlock> blocks_;
  std::vector<AdamMoments> moments_;
  MomentMemory memory_;
  std::optional<OffloadedState> offloaded_;
};

}  // namespace nibble
