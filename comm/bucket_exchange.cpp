#include "comm/bucket_exchange.hpp"

#include <algorithm>
#include <map>

#include "comm/sums_of_buckets.hpp"

namespace nibble {
namespace {

class BucketExchange final : public GradientExchange {
 public:
  BucketExchange(CommunicationThread& thread, const ExchangePlan& plan, uint64_t seed, const MakeBucketSum& make_sum)
      : thread_(thread), sums_(places_of(plan, thread.rank(), seed), make_sum) {}

  std::string description() const override { return sums_.description(); }
  bool compares_points() const override { return sums_.compares_points(); }
  int64_t batches(int64_t step) const override { return sums_.batches(step); }
  int64_t most_batches() const override { return sums_.most_batches(); }
  int evaluations(int64_t step) const override { return sums_.evaluations(step); }
  void start(int64_t step) override { step_ = step; }
  void keep(int evaluation, int bucket, const Parts& gradient) override {
    thread_.run([&](Communicator& ranks) { sums_.keep(ranks, evaluation, bucket, gradient); });
  }
  void begin(int bucket, const Parts& gradient, const Consume&) override {
    tickets_[bucket] = thread_.submit(
        [this, bucket, gradient, step = step_](Communicator& ranks) { sums_.sum(ranks, bucket, gradient, step); });
  }
  void wait(int bucket) override {
    if (const auto begun = tickets_.find(bucket); begun != tickets_.end()) thread_.wait(begun->second);
  }
  void finish() override {
    thread_.run([this](Communicator& ranks) { report_ = sums_.report(ranks); });
    tickets_.clear();
  }
  ExchangeReport report() const override { return report_; }
  void commit() override { sums_.commit(); }
  void discard() override { sums_.discard(); }
  void state(StateList& list) override { sums_.state(list, "exchange/"); }

 private:
  CommunicationThread& thread_;
  SumsOfBuckets sums_;
  std::map<int, CommunicationThread::Ticket> tickets_;
  ExchangeReport report_;
  int64_t step_ = 0;
};

}  // namespace

std::vector<BucketPlace> places_of(const ExchangePlan& plan, int rank, uint64_t seed) {
  constexpr int64_t smallest_codec_bucket = 8;
  int64_t largest = 0, codes = 0;
  std::vector<BucketPlace> places;
  for (const std::vector<int64_t>& parts : plan.part_elements) {
    const size_t bucket = places.size();
    places.push_back({.number = static_cast<int>(bucket),
                      .group = plan.group.empty() ? 0 : plan.group[bucket],
                      .groups = plan.groups,
                      .rank = rank,
                      .part_elements = parts,
                      .goes = plan.goes,
                      .seed = seed,
                      .first_codes = static_cast<uint32_t>(codes),
                      .isa = plan.isa,
                      .memory = plan.memory});
    largest = std::max(largest, places.back().elements());
    codes += places.back().elements() / smallest_codec_bucket + std::ssize(parts);
  }
  const auto scratch = std::make_shared<SumScratch>(largest, plan.memory);
  for (BucketPlace& place : places) place.scratch = scratch;
  return places;
}

std::unique_ptr<GradientExchange> make_bucket_exchange(CommunicationThread& thread, const ExchangePlan& plan,
                                                       uint64_t seed, const MakeBucketSum& make_sum) {
  return std::make_unique<BucketExchange>(thread, plan, seed, make_sum);
}

}  // namespace nibble
