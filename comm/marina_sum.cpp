#include <fmt/format.h>

#include <algorithm>
#include <functional>

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
        previous_(DType::f32, 1, place.elements(), "gradient estimates"),
        middle_(DType::f32, 1, std::min(place.elements(), noise_elements), "gradient estimates"),
        estimate_(place.result_elements()) {
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

  void keep(Communicator&, int evaluation, const Parts& gradient) override {
    const std::span<float> memory = span_of(evaluation == 0 ? previous_ : middle_);
    pack(joined(gradient), 0, std::as_writable_bytes(memory));
  }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    squares_ = {};
    if (full_steps_.is_full(step)) {
      full_->sum(ranks, values, step, own);
      const std::span<const float> total = gathered(values, place_);
      return estimate_.replace(result_of(total, place_));
    }
    const std::span<const float> current = gathered(values, place_);
    if (evaluations(step) == 3) measure(current);
    const std::span<float> difference = take(place_, SumScratch::wrapped);
    std::ranges::transform(current, span_of(previous_), difference.begin(), std::minus());
    difference_->sum(ranks, parts_of(difference, place_), step, own);
    estimate_.move_by(result_of(difference, place_));
    put_result(estimate_.next(), values, place_);
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
  DifferenceSquares difference_squares() const override { return squares_; }

 private:
  static std::span<float> span_of(const OwnedTensor& tensor) {
    return {tensor.view().as<float>(), static_cast<size_t>(tensor.view().size())};
  }

  // Between points as near as those of two small steps a gradient is linear, so that the gradient in their middle lies
  // in the middle of theirs but for rounding: three independent errors of one variance v give x - 2 m + y the variance
  // 6 v, and the difference y - x has 2 v of it. A point nearer to one of them would say less of curvature, but working
  // weights of bf16 would not move there at all.
  void measure(std::span<const float> current) {
    const std::span<const float> previous = span_of(previous_), middle = span_of(middle_);
    for (size_t i = 0; i < middle.size(); ++i) {
      const double difference = double(current[i]) - previous[i];
      const double bend = double(previous[i]) - 2 * double(middle[i]) + current[i];
      squares_.difference += difference * difference;
      squares_.noise += bend * bend / 3;
    }
  }

  BucketPlace place_;
  MarinaOptions options_;
  BucketSumPointer full_, difference_;
  FullSteps full_steps_;
  OwnedTensor previous_, middle_;
  RecursiveEstimate estimate_;
  DifferenceSquares squares_;
};

}  // namespace

BucketSumPointer make_marina_sum(const BucketPlace& place, const MarinaOptions& options, BucketSumPointer full,
                                 BucketSumPointer difference) {
  return std::make_unique<MarinaSum>(place, options, std::move(full), std::move(difference));
}

}  // namespace nibble
