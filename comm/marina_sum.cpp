#include <fmt/format.h>

#include <algorithm>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/recursive_estimate.hpp"

namespace nibble {
namespace {

/// Elements of a bucket in which rounding noise is measured.
constexpr int64_t noise_elements = 1 << 16;

class MarinaSum final : public BucketSum {
 public:
  MarinaSum(const BucketPlace& place, const MarinaOptions& options, BucketSumPointer full, BucketSumPointer difference)
      : place_(place),
        options_(options),
        full_(std::move(full)),
        difference_(std::move(difference)),
        full_steps_(place.seed, options.full_probability, place.ranks()),
        previous_(DType::f32, 1, place.elements(), purpose, place.memory),
        middle_(DType::f32, 1, std::min(place.elements(), noise_elements), purpose, place.memory),
        estimate_(place.result_elements(), purpose, place.memory),
        change_square_(noise_elements, place.memory),
        bend_square_(noise_elements, place.memory) {
    for (const auto use : {SumScratch::gathered, SumScratch::wrapped}) place.scratch->reserve(use);
  }

  std::string description() const override {
    return fmt::format("marina with {}, in full with probability {:.3g}", difference_->description(),
                       options_.full_probability);
  }

  bool compares_points() const override { return true; }
  int64_t batches(int64_t step) const override { return full_steps_.is_full(step) ? options_.full_batches : 1; }
  int64_t most_batches() const override { return options_.full_batches; }
  int evaluations(int64_t step) const override {
    if (full_steps_.is_full(step)) return 1;
    return options_.noise_every > 0 && step % options_.noise_every == 0 ? 3 : 2;
  }

  void keep(Communicator& ranks, int evaluation, const Parts& gradient) override {
    const std::span<float> memory = span_of(evaluation == 0 ? previous_ : middle_);
    WireWork(ranks).pack(joined(gradient), 0, std::as_writable_bytes(memory));
  }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const WireWork work(ranks);
    change_square_.clear();
    bend_square_.clear();
    if (full_steps_.is_full(step)) {
      full_->sum(ranks, values, step, own);
      const std::span<const float> total = gathered(work, values, place_);
      return estimate_.replace(work, result_of(total, place_));
    }
    const std::span<const float> current = gathered(work, values, place_);
    if (evaluations(step) == 3) measure(work, current);
    const std::span<float> difference = take(place_, SumScratch::wrapped);
    work.minus(current, span_of(previous_), difference);
    difference_->sum(ranks, parts_of(difference, place_), step, own);
    estimate_.move_by(work, result_of(difference, place_));
    put_result(work, estimate_.next(), values, place_);
  }

  void commit() override {
    full_->commit();
    difference_->commit();
    full_steps_.commit();
    estimate_.commit();
  }
  void discard() override {
    full_->discard();
    difference_->discard();
    estimate_.discard();
  }
  void state(StateList& list, const std::string& prefix) override {
    difference_->state(list, prefix);
    full_steps_.state(list, prefix);
    add_result_state(list, prefix + "estimate", estimate_.tensor(), place_);
  }
  DifferenceSquares difference_squares() const override { return {change_square_.total(), bend_square_.total() / 3}; }

 private:
  static constexpr const char* purpose = "gradient estimates";

  // Between points as near as those of two small steps a gradient is linear, so that the gradient in their middle lies
  // in the middle of theirs but for rounding: three independent errors of one variance v give x - 2 m + y the variance
  // 6 v, and the difference y - x has 2 v of it. A point nearer to one of them would say less of curvature, but working
  // weights of bf16 would not move there at all.
  void measure(const WireWork& work, std::span<const float> current) {
    const std::span<const float> middle = span_of(middle_), previous = span_of(previous_).first(middle.size()),
                                 first = current.first(middle.size());
    change_square_.take(work, first, previous);
    bend_square_.take(work, previous, middle, first);
  }

  BucketPlace place_;
  MarinaOptions options_;
  BucketSumPointer full_, difference_;
  FullSteps full_steps_;
  OwnedTensor previous_, middle_;
  RecursiveEstimate estimate_;
  SquareSum change_square_, bend_square_;  ///< y - x, x - 2 m + y
};

}  // namespace

BucketSumPointer make_marina_sum(const BucketPlace& place, const MarinaOptions& options, BucketSumPointer full,
                                 BucketSumPointer difference) {
  return std::make_unique<MarinaSum>(place, options, std::move(full), std::move(difference));
}

}  // namespace nibble
