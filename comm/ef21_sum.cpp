#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/recursive_estimate.hpp"

namespace nibble {
namespace {

class Ef21Sum final : public BucketSum {
 public:
  Ef21Sum(const BucketPlace& place, BucketSumPointer inner)
      : place_(place),
        inner_(std::move(inner)),
        own_(place.elements(), purpose, place.memory),
        sum_(place.result_elements(), purpose, place.memory) {
    for (const auto use : {SumScratch::gathered, SumScratch::wrapped, SumScratch::sent}) place.scratch->reserve(use);
  }

  std::string description() const override { return "ef21 with " + inner_->description(); }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const WireWork work(ranks);
    const std::span<float> difference = take(place_, SumScratch::wrapped), sent = take(place_, SumScratch::sent);
    work.minus(gathered(work, values, place_), own_.value(), difference);
    inner_->sum(ranks, parts_of(difference, place_), step, sent);
    own_.move_by(work, sent);
    sum_.move_by(work, result_of(difference, place_));
    if (!own.empty()) work.copy(own_.next(), own);
    put_result(work, sum_.next(), values, place_);
  }

  void commit() override {
    inner_->commit();
    own_.commit();
    sum_.commit();
  }
  void discard() override {
    inner_->discard();
    own_.discard();
    sum_.discard();
  }
  void state(StateList& list, const std::string& prefix) override {
    inner_->state(list, prefix);
    list.add_addend(prefix + "own_estimate", own_.tensor(), place_.rank, place_.ranks());
    add_result_state(list, prefix + "estimate", sum_.tensor(), place_);
  }

 private:
  static constexpr const char* purpose = "gradient estimates";

  BucketPlace place_;
  BucketSumPointer inner_;
  RecursiveEstimate own_, sum_;
};

}  // namespace

BucketSumPointer make_ef21_sum(const BucketPlace& place, BucketSumPointer inner) {
  return std::make_unique<Ef21Sum>(place, std::move(inner));
}

}  // namespace nibble
