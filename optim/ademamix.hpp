// AdEMAMix: Adam with a second, far slower moment of the gradients, and decoupled weight decay.
//
// Pagliardini, Ablin and Grangier, "The AdEMAMix optimizer: better, faster, older", arXiv 2409.03137:
//   m1 = b1 m1 + (1 - b1) g;   m2 = b3 m2 + (1 - b3) g;   v = b2 v + (1 - b2) g^2
//   w *= 1 - lr wd;   w -= lr (m1 / (1 - b1^t) + alpha m2) / (sqrt(v) / sqrt(1 - b2^t) + eps)
// m2 has no bias correction; alpha and b3 come to their values over the first steps instead, alpha in a straight line
// and b3 so that its half-life does.
#pragma once

#include <optional>
#include <vector>

#include "optim/kernels.hpp"
#include "optim/offloaded_state.hpp"
#include "optim/optimizer.hpp"

namespace nibble {

struct AdEMAMixSettings {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double beta3 = 0.9999;
  double alpha = 8;
  int64_t warmup = 0;  ///< updates until alpha and beta3 have their values; 0: from the first on
  double epsilon = 1e-8;
  double weight_decay = 0.1;  ///< for parameters with `decay`
  MomentSettings moments{};
};

/// alpha and beta3 of update `step`, counted from 1.
double ademamix_alpha(const AdEMAMixSettings& settings, int64_t step);
double ademamix_beta3(const AdEMAMixSettings& settings, int64_t step);

class AdEMAMix final : public Optimizer {
 public:
  /// Allocates the three moments, zero. Throws Error{configuration} for a beta outside [0, 1), a negative alpha, an
  /// epsilon <= 0, a negative decay.
  AdEMAMix(std::vector<OptimizedParameter> parameters, const AdEMAMixSettings& settings);

  void step(Stream& stream, const StepContext& context) override;
  /// "optimizer/first_moment/NAME", "optimizer/slow_moment/NAME" and "optimizer/second_moment/NAME".
  void state(StateList& list) override;

 private:
  std::vector<OptimizedParameter> parameters_;
  AdEMAMixSettings settings_;
  std::vector<TensorBlock> blocks_;
  std::vector<MixedMoments> moments_;
  MomentMemory memory_;
  std::optional<OffloadedState> offloaded_;
};

}  // namespace nibble
