// CAGE: late in a run, masters are drawn towards the values that their quantizer gives.
//
// Source: arXiv 2510.18784, decoupled form: w -= learning_rate * lambda_t * (w - Q(w)), where Q is the forward recipe's
// weight quantizer, and lambda_t is 0 for the first `silence` of the steps and grows linearly to `strength` at the
// last. The pull comes before the optimizer's update of the same step, both from the weights that the step's gradient
// belongs to; weights that the quantizer's mask excludes are left alone. Works beside every optimizer.
#pragma once

#include <cstdint>

#include "model/llama.hpp"
#include "trainer/sharded_weights.hpp"

namespace nibble {

struct CageSettings {
  double strength = 0;  ///< lambda; 0: off
  double silence = 0.8;
  int64_t steps = 0;  ///< of the run
};

/// lambda_t of step `step`, counted from 0.
double cage_strength(const CageSettings& settings, int64_t step);

class Cage {
 public:
  /// The arguments must outlive the object.
  Cage(Stream& stream, Llama& model, const ShardedWeights& weights, const CageSettings& settings);

  /// Moves this rank's masters. All ranks call it.
  void pull(int64_t step, double learning_rate);

 private:
  /// `residual` of the parameter's run, as one row.
  void pull(const OptimizedParameter& parameter, const Tensor& residual, float factor);

  Stream& stream_;
  Llama& model_;
  const ShardedWeights& weights_;
  CageSettings settings_;
  OwnedTensor residual_;  ///< f32: of the largest projection
};

}  // namespace nibble
