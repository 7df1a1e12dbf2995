// MARS-M: Muon on gradients whose noise is reduced by the step before.
//
// Liu et al., "MARS-M: when variance reduction meets matrices", arXiv 2510.21800, in its approximate form, which takes
// the last batch's gradient where the exact one evaluates the last weights again:
//   c = g + gamma momentum / (1 - momentum) (g - g_before);   c /= |c| where |c| > 1
//   b = momentum b + (1 - momentum) c;   o = NewtonSchulz(b);   w as Muon's
// The norm is that of a whole matrix, so the rank that orthogonalises it keeps all of its state.
#pragma once

#include <vector>

#include "optim/muon.hpp"

namespace nibble {

struct MarsMSettings {
  double momentum = 0.95;
  double gamma = 0.025;
  MuonScale scale = MuonScale::moonlight;
  double weight_decay = 0.1;  ///< for parameters with `decay`
  NewtonSchulzSettings newton_schulz{};
  MomentSettings moments{};  ///< of the momentum; the last gradient is bf16 where this is 8-bit
};

class MarsM final : public Optimizer {
 public:
  /// As Muon's. Throws Error{configuration} for a momentum outside [0, 1), a negative gamma or decay, no steps.
  MarsM(std::vector<OptimizedParameter> matrices, const MarsMSettings& settings, const ParameterShares& shares = {});

  /// All ranks call it.
  void step(Stream& stream, const StepContext& context) override;
  /// "optimizer/momentum/NAME" and "optimizer/last_gradient/NAME" (Moment::state), on the rank that orthogonalises the
  /// matrix.
  void state(StateList& list) override;

 private:
  /// Of one matrix, on the rank that orthogonalises it, else empty.
  struct State {
    Moment momentum, last_gradient;
  };

  std::vector<OptimizedParameter> parameters_;
  MarsMSettings settings_;
  std::vector<State> states_;
  WholeMatrices whole_;
  NewtonSchulz newton_schulz_;
  MomentMemory memory_;
  std::optional<OffloadedState> offloaded_momenta_, offloaded_gradients_, offloaded_masters_;
};

}  // namespace nibble
