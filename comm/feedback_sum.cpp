#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/recursive_estimate.hpp"
#include "comm/square_sum.hpp"

namespace nibble {
namespace {

class FeedbackSum final : public BucketSum {
 public:
  FeedbackSum(const BucketPlace& place, BucketSumPointer inner)
      : place_(place),
        inner_(std::move(inner)),
        residual_(place.elements(), "error feedback", place.memory),
        rest_square_(place.elements(), place.memory) {
    for (const auto use : {SumScratch::gathered, SumScratch::wrapped, SumScratch::sent}) place.scratch->reserve(use);
  }

  std::string description() const override { return inner_->description() + ", error feedback"; }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const WireWork work(ranks);
    const std::span<float> total = take(place_, SumScratch::wrapped), sent = take(place_, SumScratch::sent),
                           rest = residual_.change();
    work.plus(gathered(work, values, place_), residual_.value(), total);
    work.copy(total, rest);
    inner_->sum(ranks, parts_of(total, place_), step, sent);
    work.minus(rest, sent, rest);
    rest_square_.take(work, rest);
    if (!own.empty()) work.copy(sent, own);
    put_result(work, result_of(total, place_), values, place_);
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
  double residual_square() const override { return rest_square_.total(); }

 private:
  BucketPlace place_;
  BucketSumPointer inner_;
  RecursiveEstimate residual_;
  SquareSum rest_square_;
};

}  // namespace

BucketSumPointer make_feedback_sum(const BucketPlace& place, BucketSumPointer inner) {
  return std::make_unique<FeedbackSum>(place, std::move(inner));
}

}  // namespace nibble
