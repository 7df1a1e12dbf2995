// Gradient exchange: gradients of one rank in, their sum over all ranks out.
//
// Gradients are divided by the step's global token count before they come here, so the sum over ranks is the gradient
// of the step. A step is a transaction: whatever an exchange remembers (residuals, histories, counters) changes only on
// commit, after all ranks agreed that the step is finite.
// Not for: the sum over a rank's own micro-batches (comm/lanes.hpp).
#pragma once

#include <memory>

#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class GradientExchange {
 public:
  virtual ~GradientExchange() = default;

  /// At how many sets of weights `step` needs gradients: the current ones, or those and the previous ones (MARINA).
  virtual int evaluations(int64_t step) const = 0;
  /// A step begins; `step` is the counter of whatever is random in it.
  virtual void start(int64_t step) = 0;

  /// Starts the exchange of a bucket as soon as the backward pass has finished it. `gradient` (f32) is replaced by the
  /// sum and must not be touched before `finish` returns. Buckets come in the same order on every rank.
  virtual void begin(int bucket, const Tensor& gradient) = 0;

  /// Returns when every bucket that was begun is complete.
  virtual void finish() = 0;

  /// Sums over the ranks, in the tree that joins the lanes: the loss, counts.
  virtual double sum(double value) = 0;

  /// Whether `mine` holds on every rank: all ranks then act alike.
  virtual bool all(bool mine) = 0;

  /// The step counts: what was remembered becomes the exchange's state.
  virtual void commit() = 0;
  /// The step was refused: the state stays that of the step before.
  virtual void discard() = 0;

  /// What a resumed run needs.
  virtual void state(StateList& list) = 0;
};

/// The exchange of a single process: its gradient is the sum.
std::unique_ptr<GradientExchange> make_self_exchange();

}  // namespace nibble
