// Gradient exchange: gradients of one rank in, their sum over all ranks out.
//
// Gradients are divided by the step's global token count before they come here, so the sum over ranks is the gradient
// of the step. A step is a transaction: whatever an exchange remembers (residuals, histories, counters) changes only on
// commit, after all ranks agreed that the step is finite.
// Not for: the sum over a rank's own micro-batches, and which rank owns what (trainer/gradient_sum.hpp).
#pragma once

#include <memory>
#include <optional>

#include "comm/bucket_sum.hpp"
#include "comm/collectives.hpp"
#include "comm/communication_thread.hpp"
#include "tensor/state.hpp"

namespace nibble {

/// What an exchange says of a step, the same on all ranks.
struct ExchangeReport {
  std::optional<double> relative_error{};  ///< |sum - exact sum| / |exact sum| of a sample of the gradient's elements
  std::optional<double> residual_norm{};   ///< of what error feedback holds back, over all ranks
  std::optional<double> signal_ratio{};    ///< MARINA: |difference of gradients| / |its noise| (DifferenceSquares)
  int64_t bytes_played = 0;                ///< what a rank would have sent whom this process only plays
};

/// The buckets of a step and the ranks that exchange them.
struct ExchangePlan {
  std::vector<std::vector<int64_t>> part_elements;  ///< by bucket, by rank: how much of it the rank owns
  std::vector<int> group;                           ///< by bucket: which part of the model it belongs to
  int groups = 1;
  int64_t turns = 1;  ///< micro-batches that each rank computes
  SumGoes goes = SumGoes::to_all;
  Isa isa = Isa::avx2;
  Place memory = Place::host;  ///< in which gradients lie
};

class GradientExchange {
 public:
  virtual ~GradientExchange() = default;

  /// For a run's record: how many buckets travel how.
  virtual std::string description() const = 0;

  /// Of how many batches the gradient of `step` is; at most `most_batches`.
  virtual int64_t batches(int64_t /*step*/) const { return 1; }
  virtual int64_t most_batches() const { return 1; }
  /// Whether some steps need gradients at more than one point.
  virtual bool compares_points() const { return false; }
  /// At how many points `step` needs gradients: 1, the current weights; 2, the previous ones first (MARINA); 3, between
  /// them the middle of both.
  virtual int evaluations(int64_t /*step*/) const { return 1; }
  /// A step begins; `step` is the counter of whatever is random in it.
  virtual void start(int64_t step) = 0;

  /// Takes a bucket's gradient at a point before the last; the memory may be overwritten at once.
  virtual void keep(int /*evaluation*/, int /*bucket*/, const Parts& /*gradient*/) {}
  /// Starts the exchange of a bucket as soon as the backward pass has finished it. gradient[r] are the f32 pieces of
  /// this rank's gradient that rank r owns. This rank's own part, or all of them where sums go to all, is replaced by
  /// the sum over all ranks; or, if there is a `fold`, which compressed exchanges of real ranks do not take, every
  /// rank's contribution to its own part is handed to that, on the communication thread. Buckets come in the same order
  /// on every rank, one of a number at a time.
  virtual void begin(int bucket, const Parts& gradient, const Consume& fold) = 0;
  /// Returns when the bucket's memory may be overwritten.
  virtual void wait(int bucket) = 0;
  /// Returns when every bucket that was begun is complete.
  virtual void finish() = 0;
  /// Of the step that has finished.
  virtual ExchangeReport report() const { return {}; }

  /// The step counts: what was remembered becomes the exchange's state.
  virtual void commit() = 0;
  /// The step was refused: the state stays that of the step before.
  virtual void discard() = 0;

  /// What a resumed run needs.
  virtual void state(StateList& list) = 0;
};

/// Every value of every rank, added in the tree of the ranks. With `to_all` each rank gets all parts' sums.
std::unique_ptr<GradientExchange> make_dense_exchange(CommunicationThread& thread, Wire wire, SumGoes goes);

}  // namespace nibble
