#include <cassert>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/values_on_host.hpp"

namespace nibble {
namespace {

class SumOnHost final : public BucketSum {
 public:
  SumOnHost(const BucketPlace& place, const std::function<BucketSumPointer(const BucketPlace&)>& make_inner)
      : place_(place),
        values_(place.scratch->shared<ValuesOnHost>("values on host", [] { return ValuesOnHost(); })),
        own_(place.scratch->shared<ValuesOnHost>("own on host", [] { return ValuesOnHost(); })) {
    assert(place.memory == Place::device);
    place_.memory = Place::host;
    place_.scratch = place.scratch->on_host();
    inner_ = make_inner(place_);
    for (const auto& memory : {values_, own_}) memory->reserve(place.elements());
  }

  std::string description() const override { return inner_->description(); }
  bool compares_points() const override { return inner_->compares_points(); }
  int64_t batches(int64_t step) const override { return inner_->batches(step); }
  int64_t most_batches() const override { return inner_->most_batches(); }
  int evaluations(int64_t step) const override { return inner_->evaluations(step); }

  void keep(Communicator& ranks, int evaluation, const Parts& gradient) override {
    inner_->keep(ranks.host(), evaluation, parts_of(values_->fetch(ranks, joined(gradient)), place_));
  }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const std::span<float> vector = values_->fetch(ranks, joined(values)),
                           own_here = own.empty() ? own : own_->take(place_.elements());
    inner_->sum(ranks.host(), parts_of(vector, place_), step, own_here);
    const WireWork work(ranks);
    if (!own.empty()) work.copy(own_here, own);
    put_result(work, result_of(vector, place_), values, place_);
    ranks.wait();
  }

  void commit() override { inner_->commit(); }
  void discard() override { inner_->discard(); }
  void state(StateList& list, const std::string& prefix) override { inner_->state(list, prefix); }
  double residual_square() const override { return inner_->residual_square(); }
  DifferenceSquares difference_squares() const override { return inner_->difference_squares(); }

 private:
  BucketPlace place_;  ///< with its values in the host's memory
  std::shared_ptr<ValuesOnHost> values_, own_;
  BucketSumPointer inner_;
};

}  // namespace

BucketSumPointer make_sum_on_host(const BucketPlace& place,
                                  const std::function<BucketSumPointer(const BucketPlace&)>& make_inner) {
  return std::make_unique<SumOnHost>(place, make_inner);
}

}  // namespace nibble
