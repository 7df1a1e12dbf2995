// Gradient exchange: gradients of one rank in, their sum over all ranks out.
//
// Gradients are divided by the step's global token count before they come here, so the sum over ranks is the gradient
// of the step. A step is a transaction: whatever an exchange remembers (residuals, histories, counters) changes only on
// commit, after all ranks agreed that the step is finite.
// Not for: the sum over a rank's own micro-batches, and which rank owns what (trainer/gradient_sum.hpp).
#pragma once

#include <memory>

#include "comm/collectives.hpp"
#include "comm/communication_thread.hpp"
#include "tensor/state.hpp"

namespace nibble {

class GradientExchange {
 public:
  virtual ~GradientExchange() = default;

  /// At how many sets of weights `step` needs gradients: the current ones, or those and the previous ones (MARINA).
  virtual int evaluations(int64_t step) const = 0;
  /// A step begins; `step` is the counter of whatever is random in it.
  virtual void start(int64_t step) = 0;

  /// Starts the exchange of a bucket as soon as the backward pass has finished it. gradient[r] are the f32 pieces of
  /// this rank's gradient that rank r owns. This rank's own part is replaced by the sum over all ranks; or, if there is
  /// a `fold`, every rank's contribution to it is handed to that, on the communication thread. Buckets come in the same
  /// order on every rank, one of a number at a time.
  virtual void begin(int bucket, const Parts& gradient, const Consume& fold) = 0;
  /// Returns when the bucket's memory may be overwritten.
  virtual void wait(int bucket) = 0;
  /// Returns when every bucket that was begun is complete.
  virtual void finish() = 0;

  /// The step counts: what was remembered becomes the exchange's state.
  virtual void commit() = 0;
  /// The step was refused: the state stays that of the step before.
  virtual void discard() = 0;

  /// What a resumed run needs.
  virtual void state(StateList& list) = 0;
};

enum class SumGoes { to_all, to_owner };

/// Every value of every rank, added in the tree of the ranks. With `to_all` each rank gets all parts' sums.
std::unique_ptr<GradientExchange> make_dense_exchange(CommunicationThread& thread, Wire wire, SumGoes goes);

}  // namespace nibble
