#include "trainer/gradient_sum.hpp"

#include <algorithm>

#include "tensor/convert.hpp"
#include "trainer/rotating_units.hpp"

namespace nibble {
namespace {

size_t index(int64_t i) { return static_cast<size_t>(i); }

}  // namespace

GradientSum::GradientSum(Stream& stream, Stream* communication, const Llama& model, GradientExchange& exchange,
                         const ShardPlan& plan)
    : stream_(stream), folding_(communication), layout_(model.layout()), exchange_(exchange), plan_(plan) {
  if (leaves_at_once()) {
    passing_ = model.make_gradients(Residency::rotating);
    passing_.on_await([this](int unit) {
      for (int before = 0; before < layout_.units(); ++before)
        if (share_gradient_memory(layout_, unit, before))
          for (const int bucket : plan_.buckets_of_unit(before)) exchange_.wait(bucket);
    });
    keep_own();
  } else {
    keep_whole(model);
  }
}

void GradientSum::start(int64_t batches) {
  if (turns_ == plan_.turns() * batches) return;
  turns_ = plan_.turns() * batches;
  sums_ = leaves_at_once() ? plan_lanes(plan_.micro_batches() * batches, plan_.lanes())
                           : plan_lanes(turns_, plan_.lanes() / plan_.ranks());
}

void GradientSum::keep_whole(const Llama& model) {
  start(exchange_.most_batches());
  for (int slot = 0; slot < slots_of(sums_); ++slot) slots_.push_back(model.make_gradients());
  if (std::ranges::any_of(sums_, &MicroBatchSum::accumulate)) passing_ = model.make_gradients(Residency::rotating);
  for (const Run& run : plan_.partition().runs(plan_.rank()))
    own_.push_back(slots_.front()[index(run.tensor)].run(run.first, run.count));
}

void GradientSum::keep_own() {
  start(exchange_.most_batches());
  const Partition& partition = plan_.partition();
  const auto lay_out = [&](Arena& arena) {
    own_.assign(partition.runs(plan_.rank()).size(), Tensor(DType::f32, nullptr, 1, 0, 0, arena.place()));
    own_buckets_.assign(index(partition.buckets()), {});
    for (int bucket = 0; bucket < partition.buckets(); ++bucket) {
      int64_t elements = 0;
      for (const Run& run : partition.runs(bucket, plan_.rank())) elements += run.count;
      for (int slot = 0; slot < slots_of(sums_); ++slot)
        own_buckets_[index(bucket)].slots.push_back(static_cast<float*>(arena.take(DType::f32, 1, elements).data));
      float* at = own_buckets_[index(bucket)].slots.front();
      for (const Run& run : partition.runs(bucket, plan_.rank())) {
        own_[index(run.tensor)] = Tensor(DType::f32, at, 1, run.count, run.count, arena.place());
        if (at) at += run.count;  // null while the arena is measured
      }
    }
  };
  own_memory_ = Arena("gradients", lay_out, stream_.place());
}

const ParameterSet& GradientSum::memory(int64_t turn) const {
  if (leaves_at_once() || sums_[index(turn)].accumulate) return passing_;
  return slots_[index(sums_[index(turn)].slot)];
}

void GradientSum::take(int64_t turn, int buffer) {
  if (!leaves_at_once()) {
    const MicroBatchSum& sum = sums_[index(turn)];
    if (sum.accumulate) add(stream_, passing_.buffer(buffer), slots_[index(sum.slot)].buffer(buffer));
    for (const MicroBatchSum::Join& join : sum.joins)
      add(stream_, slots_[index(join.from)].buffer(buffer), slots_[index(join.into)].buffer(buffer));
    if (turn + 1 < turns_) return;
  }
  if (plan_.completes_bucket(buffer)) begin(turn, plan_.bucket_of(buffer));
}

void GradientSum::begin(int64_t turn, int bucket) {
  if (point_ != last_point)
    return exchange_.keep(point_, bucket, plan_.parts(bucket, leaves_at_once() ? passing_ : slots_.front()));
  if (!leaves_at_once()) return exchange_.begin(bucket, plan_.parts(bucket, slots_.front()), {});
  exchange_.begin(bucket, plan_.parts(bucket, passing_),
                  [this, turn, bucket](int64_t first, int64_t count, std::span<const float* const> contributions) {
                    fold(turn, own_buckets_[index(bucket)], first, count, contributions);
                  });
}

void GradientSum::fold(int64_t turn, const OwnBucket& bucket, int64_t first, int64_t count,
                       std::span<const float* const> contributions) const {
  for (int rank = 0; rank < plan_.ranks(); ++rank) {
    const MicroBatchSum& sum = sums_[index(plan_.micro_batch(rank, turn, turns_ / plan_.turns()))];
    float* const slot = bucket.slots[index(sum.slot)] + first;
    if (sum.accumulate) folding_.add(contributions[index(rank)], count, slot);
    else folding_.copy(contributions[index(rank)], count, slot);
    for (const MicroBatchSum::Join& join : sum.joins)
      folding_.add(bucket.slots[index(join.from)] + first, count, bucket.slots[index(join.into)] + first);
  }
}

}  // namespace nibble
