#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"

namespace nibble {
namespace {

class DenseSum final : public BucketSum {
 public:
  DenseSum(const BucketPlace& place, Wire wire) : place_(place), wire_(wire) {}

  std::string description() const override { return wire_ == Wire::bf16 ? "dense, bf16" : "dense, f32"; }

  void sum(Communicator& ranks, const Parts& values, int64_t, std::span<float> own) override {
    if (!own.empty()) {
      const WireWork work(ranks);
      work.pack(joined(values), 0, std::as_writable_bytes(own));
      if (wire_ == Wire::bf16) {
        auto* const rounded =
            reinterpret_cast<bf16*>(ranks.staging(own.size() * sizeof(bf16), Communicator::rounded).data());
        work.to_bf16(own.data(), std::ssize(own), rounded);
        work.to_f32(rounded, std::ssize(own), own.data());
      }
    }
    reduce_scatter(ranks, values, wire_);
    if (place_.goes == SumGoes::to_all) all_gather(ranks, values, wire_);
  }

 private:
  BucketPlace place_;
  Wire wire_;
};

class WarmUpSum final : public BucketSum {
 public:
  WarmUpSum(int64_t steps, BucketSumPointer dense, BucketSumPointer inner)
      : steps_(steps), dense_(std::move(dense)), inner_(std::move(inner)) {}

  std::string description() const override { return inner_->description(); }
  int64_t batches(int64_t step) const override { return step < steps_ ? 1 : inner_->batches(step); }
  int64_t most_batches() const override { return inner_->most_batches(); }
  bool compares_points() const override { return inner_->compares_points(); }
  int evaluations(int64_t step) const override { return step < steps_ ? 1 : inner_->evaluations(step); }
  void keep(Communicator& ranks, int evaluation, const Parts& gradient) override {
    inner_->keep(ranks, evaluation, gradient);
  }
  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    (step < steps_ ? dense_ : inner_)->sum(ranks, values, step, own);
  }
  void commit() override { inner_->commit(); }
  void discard() override { inner_->discard(); }
  void state(StateList& list, const std::string& prefix) override { inner_->state(list, prefix); }
  double residual_square() const override { return inner_->residual_square(); }
  DifferenceSquares difference_squares() const override { return inner_->difference_squares(); }

 private:
  int64_t steps_;
  BucketSumPointer dense_, inner_;
};

}  // namespace

BucketSumPointer make_dense_sum(const BucketPlace& place, Wire wire) { return std::make_unique<DenseSum>(place, wire); }

BucketSumPointer make_warm_up_sum(int64_t steps, BucketSumPointer dense, BucketSumPointer inner) {
  return std::make_unique<WarmUpSum>(steps, std::move(dense), std::move(inner));
}

}  // namespace nibble
