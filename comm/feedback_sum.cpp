#include <algorithm>
#include <functional>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/recursive_estimate.hpp"
#include "comm/square_sum.hpp"

namespace nibble {
namespace {

class FeedbackSum final : public BucketSum {
 public:
  FeedbackSum(const BucketPlace& place, BucketSumPointer inner)
      : place_(place), inner_(std::move(inner)), residual_(place.elements(), "error feedback") {
    for (const auto use : {SumScratch::gathered, SumScratch::wrapped, SumScratch::sent}) place.scratch->reserve(use);
  }

  std::string description() const override { return inner_->description() + ", error feedback"; }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const std::span<float> total = take(place_, SumScratch::wrapped), sent = take(place_, SumScratch::sent),
                           rest = residual_.change();
    std::ranges::transform(gathered(values, place_), residual_.value(), total.begin(), std::plus());
    std::ranges::copy(total, rest.begin());
    inner_->sum(ranks, parts_of(total, place_), step, sent);
    std::ranges::transform(rest, sent, rest.begin(), std::minus());
    if (!own.empty()) std::ranges::copy(sent, own.begin());
    put_result(result_of(total, place_), values, place_);
  }

  void commit() override {
    inner_->commit();
    residual_.commit();
  }
  void discard() override {
    inner_->discard();
    residual_.discard();
  }
  void state(StateList& list, const std::string& prefix) override {
    inner_->state(list, prefix);
    list.add_addend(prefix + "residual", residual_.tensor(), place_.rank, place_.ranks());
  }
  double residual_square() const override { return square_sum(residual_.next()); }

 private:
  BucketPlace place_;
  BucketSumPointer inner_;
  RecursiveEstimate residual_;
};

}  // namespace

BucketSumPointer make_feedback_sum(const BucketPlace& place, BucketSumPointer inner) {
  return std::make_unique<FeedbackSum>(place, std::move(inner));
}

}  // namespace nibble
