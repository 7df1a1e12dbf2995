// The gradient of a step: micro-batches summed on their rank, ranks summed by the exchange, in one fixed order.
//
// Every sum follows plan_lanes(micro-batches, lanes), so the bits depend neither on the number of ranks nor on what is
// sharded. Up to `shard: optimizer` a rank sums its subtree of lanes in whole gradients, and the ranks' sums join once
// a step. From `shard: gradients` on a gradient leaves its rank as soon as the backward pass has it, every micro-batch;
// the owner of a run sums it over all micro-batches.
// Not for: how gradients travel (comm/exchange.hpp).
#pragma once

#include <memory>
#include <vector>

#include "comm/exchange.hpp"
#include "comm/lanes.hpp"
#include "comm/wire_work.hpp"
#include "model/llama.hpp"
#include "trainer/shard_plan.hpp"

namespace nibble {

class GradientSum {
 public:
  /// `communication`: where a device's contributions are folded (CommunicationThread::stream). All arguments must
  /// outlive the object.
  GradientSum(Stream& stream, Stream* communication, const Llama& model, GradientExchange& exchange,
              const ShardPlan& plan);

  /// Where the backward pass of this rank's turn writes, which waits until the memory is free.
  const ParameterSet& memory(int64_t turn) const;
  /// A step of so many batches, at most exchange.most_batches().
  void start(int64_t batches);
  /// At which of the exchange's points the gradients that come are: those before the last only go there.
  static constexpr int last_point = -1;
  void at_point(int point) { point_ = point; }

  /// Takes a buffer's gradient from there and, where it completes a bucket's sum on this rank, starts the exchange.
  void take(int64_t turn, int buffer);

  /// Whole gradients by parameter (`shard: none`, `optimizer`).
  const ParameterSet& whole() const { return slots_.front(); }
  /// This rank's part, f32, by parameter: the runs of plan.partition().runs(rank). Complete when the exchange has
  /// finished.
  const std::vector<Tensor>& own() const { return own_; }

 private:
  struct OwnBucket {
    std::vector<float*> slots;  ///< this rank's part of the bucket, packed, in each slot
  };

  bool leaves_at_once() const { return plan_.shard() >= Shard::gradients; }
  void keep_whole(const Llama& model);
  void keep_own();
  void begin(int64_t turn, int bucket);
  /// What the owner does with the ranks' contributions of a turn, on the communication thread.
  void fold(int64_t turn, const OwnBucket& bucket, int64_t first, int64_t count,
            std::span<const float* const> contributions) const;

  Stream& stream_;
  WireWork folding_;
  const ParameterLayout& layout_;
  GradientExchange& exchange_;
  const ShardPlan& plan_;
  int point_ = last_point;
  int64_t turns_ = 0;                ///< of this rank in this step
  std::vector<MicroBatchSum> sums_;  ///< of this rank's turns; from `gradients` on, of the whole step's micro-batches
  std::vector<ParameterSet> slots_;  ///< whole gradients
  ParameterSet passing_;             ///< rotating: of a micro-batch that is added to a sum or leaves at once
  Arena own_memory_;
  std::vector<OwnBucket> own_buckets_;
  std::vector<Tensor> own_;
};

}  // namespace nibble
