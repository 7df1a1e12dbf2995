#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <functional>
#include <map>
#include <numeric>

#include "comm/bucket_exchange.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/partition.hpp"
#include "comm/sparse_allreduce.hpp"
#include "comm/sums_of_buckets.hpp"
#include "comm/thread_communicator.hpp"
#include "comm/values_on_host.hpp"

namespace nibble {
namespace {

/// One of the ranks that are played.
struct Player {
  Player(const ExchangePlan& plan, int rank, uint64_t seed, const MakeBucketSum& make_sum)
      : places(places_of(plan, rank, seed)), sums(places, make_sum) {
    for (const BucketPlace& place : places) gradient.emplace_back(DType::f32, 1, place.elements(), "gradients");
  }
  std::span<float> of_bucket(size_t bucket) const {
    return {gradient[bucket].view().as<float>(), static_cast<size_t>(gradient[bucket].view().size())};
  }

  std::vector<BucketPlace> places;
  SumsOfBuckets sums;
  std::vector<OwnedTensor> gradient;  ///< by bucket: over this rank's micro-batches
};

/// What each bucket's parts are when so many ranks share it.
ExchangePlan divided(const ExchangePlan& plan, int ranks) {
  ExchangePlan shared = plan;
  shared.goes = SumGoes::to_all;
  shared.memory = Place::host;
  for (std::vector<int64_t>& parts : shared.part_elements) {
    const int64_t elements = std::accumulate(parts.begin(), parts.end(), int64_t{0});
    parts.clear();
    for (int rank = 0; rank < ranks; ++rank)
      parts.push_back(part_begin(elements, ranks, rank + 1, block_elements) -
                      part_begin(elements, ranks, rank, block_elements));
  }
  return shared;
}

class VirtualExchange final : public GradientExchange {
 public:
  VirtualExchange(CommunicationThread& thread, const ExchangePlan& plan, int ranks, uint64_t seed,
                  const MakeBucketSum& make_sum)
      : thread_(thread),
        links_(make_thread_communicators(ranks)),
        turns_of_batch_(plan.turns),
        done_(plan.part_elements.size()) {
    assert(plan.turns % ranks == 0);
    const ExchangePlan shared = divided(plan, ranks);
    for (int rank = 0; rank < ranks; ++rank) players_.push_back(std::make_unique<Player>(shared, rank, seed, make_sum));
    int64_t largest = 0;
    for (const BucketPlace& place : players_.front()->places) largest = std::max(largest, place.elements());
    nothing_ = OwnedTensor(DType::f32, 1, largest, "gradients", plan.memory);
    if (plan.memory == Place::host) return;
    total_ = OwnedTensor(DType::f32, 1, largest, "gradients", plan.memory);
    fetched_.reserve(largest);
  }

  std::string description() const override {
    return fmt::format("{}, among {} virtual ranks", players_.front()->sums.description(), players_.size());
  }
  bool compares_points() const override { return players_.front()->sums.compares_points(); }
  int64_t batches(int64_t step) const override { return players_.front()->sums.batches(step); }
  int64_t most_batches() const override { return players_.front()->sums.most_batches(); }
  int evaluations(int64_t step) const override { return players_.front()->sums.evaluations(step); }
  void start(int64_t step) override {
    step_ = step;
    turns_ = turns_of_batch_ * batches(step);
    std::ranges::fill(done_, 0);
    sent_before_ = links_.front()->bytes_sent();
  }

  void keep(int evaluation, int bucket, const Parts& gradient) override {
    thread_.run([&](Communicator& of) {
      const auto b = static_cast<size_t>(bucket);
      add(of, b, gradient);
      if (done_[b] < turns_) return;
      done_[b] = 0;
      run_on_threads(links_, [&](Communicator& ranks) {
        Player& player = *players_[static_cast<size_t>(ranks.rank())];
        player.sums.keep(ranks, evaluation, bucket, parts_of(player.of_bucket(b), player.places[b]));
      });
    });
  }

  // The sum is there when the last micro-batch is; the others add nothing to it.
  void begin(int bucket, const Parts& gradient, const Consume& fold) override {
    tickets_[bucket] = thread_.submit([=, this](Communicator& of) {
      const auto b = static_cast<size_t>(bucket);
      add(of, b, gradient);
      const std::span<const float> total = players_.front()->of_bucket(b);
      const auto* folded = static_cast<const float*>(nothing_.view().data);
      if (done_[b] == turns_) {
        sum(bucket);
        folded = total.data();
        if (of.stream()) {
          auto* const there = total_.view().on_device<float>();
          WireWork(of).copy(total.data(), std::ssize(total), there);
          folded = there;
        }
      }
      fold(0, std::ssize(total), {&folded, 1});
    });
  }
  void wait(int bucket) override {
    if (const auto begun = tickets_.find(bucket); begun != tickets_.end()) thread_.wait(begun->second);
  }
  void finish() override {
    thread_.run([this](Communicator&) {
      run_on_threads(links_, [&](Communicator& ranks) {
        const ExchangeReport report = players_[static_cast<size_t>(ranks.rank())]->sums.report(ranks);
        if (ranks.rank() == 0) report_ = report;
      });
    });
    tickets_.clear();
    report_.bytes_played = static_cast<int64_t>(links_.front()->bytes_sent() - sent_before_);
  }
  ExchangeReport report() const override { return report_; }

  void commit() override {
    for (const auto& player : players_) player->sums.commit();
  }
  void discard() override {
    for (const auto& player : players_) player->sums.discard();
  }
  void state(StateList& list) override {
    // A real rank's row stands among those of others; of one that is played it is all there is.
    for (size_t rank = 0; rank < players_.size(); ++rank) {
      StateList own;
      players_[rank]->sums.state(own, fmt::format("exchange/rank{}/", rank));
      for (const StateList::Entry& entry : own.entries()) list.add(entry.name, entry.tensor);
    }
  }

 private:
  /// One micro-batch's gradient to that of its rank.
  void add(Communicator& of, size_t bucket, const Parts& gradient) {
    const int64_t each = turns_ / std::ssize(players_), turn = done_[bucket]++;
    const std::span<float> sum = players_[static_cast<size_t>(turn / each)]->of_bucket(bucket);
    const std::span<const float> more =
        of.stream() ? fetched_.fetch(of, joined(gradient)) : gathered(joined(gradient), growing(memory_));
    if (turn % each == 0) std::ranges::copy(more, sum.begin());
    else std::ranges::transform(sum, more, sum.begin(), std::plus());
  }

  /// What the ranks have of a bucket becomes their sum.
  void sum(int bucket) {
    run_on_threads(links_, [&](Communicator& ranks) {
      Player& player = *players_[static_cast<size_t>(ranks.rank())];
      const auto b = static_cast<size_t>(bucket);
      player.sums.sum(ranks, bucket, parts_of(player.of_bucket(b), player.places[b]), step_);
    });
  }

  CommunicationThread& thread_;
  std::vector<std::unique_ptr<Communicator>> links_;
  std::vector<std::unique_ptr<Player>> players_;
  int64_t turns_of_batch_, turns_ = 0, step_ = 0;
  std::vector<int64_t> done_;  ///< by bucket: micro-batches of this evaluation
  std::map<int, CommunicationThread::Ticket> tickets_;
  std::vector<float> memory_;
  ValuesOnHost fetched_;         ///< of a device's gradients
  OwnedTensor nothing_, total_;  ///< what is folded; the total of a device's
  uint64_t sent_before_ = 0;
  ExchangeReport report_;
};

}  // namespace

std::unique_ptr<GradientExchange> make_virtual_exchange(CommunicationThread& thread, const ExchangePlan& plan,
                                                        int ranks, uint64_t seed, const MakeBucketSum& make_sum) {
  return std::make_unique<VirtualExchange>(thread, plan, ranks, seed, make_sum);
}

}  // namespace nibble
