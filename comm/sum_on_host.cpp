#include <cassert>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/pinned_memory.hpp"
#include "comm/wire_work.hpp"

namespace nibble {
namespace {

class SumOnHost final : public BucketSum {
 public:
  SumOnHost(const BucketPlace& place, BucketSumPointer inner) : place_(place), inner_(std::move(inner)) {}

  std::string description() const override { return inner_->description(); }
  int64_t batches(int64_t step) const override { return inner_->batches(step); }
  int64_t most_batches() const override { return inner_->most_batches(); }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    assert(ranks.stream() && !inner_->compares_points());
    const WireWork work(ranks);
    const size_t bytes = static_cast<size_t>(place_.elements()) * sizeof(float);
    if (memory_.bytes() < bytes) memory_ = PinnedMemory(bytes);
    const std::span<std::byte> memory = memory_.first(bytes);
    work.pack(joined(values), 0, memory);
    ranks.wait();
    const std::span<float> vector(reinterpret_cast<float*>(memory.data()), bytes / sizeof(float));
    inner_->sum(ranks.host(), parts_of(vector, place_), step, own);
    const Pieces result = place_.goes == SumGoes::to_all ? joined(values) : values[static_cast<size_t>(place_.rank)];
    work.unpack(std::as_bytes(result_of(vector, place_)), result, 0);
    ranks.wait();
  }

  void commit() override { inner_->commit(); }
  void discard() override { inner_->discard(); }
  void state(StateList& list, const std::string& prefix) override { inner_->state(list, prefix); }
  double residual_square() const override { return inner_->residual_square(); }

 private:
  BucketPlace place_;
  BucketSumPointer inner_;
  PinnedMemory memory_;
};

}  // namespace

BucketSumPointer make_sum_on_host(const BucketPlace& place, BucketSumPointer inner) {
  return std::make_unique<SumOnHost>(place, std::move(inner));
}

}  // namespace nibble
