#include <algorithm>
#include <array>
#include <cmath>

#include "comm/bucket_codec.hpp"
#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/code_message.hpp"
#include "comm/lattice_codec.hpp"
#include "comm/max_all_reduce.hpp"

namespace nibble {
namespace {

/// How much further apart ranks may be than they were in the step before.
constexpr float headroom = 1.5f;

float largest_difference(std::span<const float> a, std::span<const float> b) {
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

// A part's owner finds the others' lattice points from its own values and adds them; then all find the point of the
// mean from theirs, from which it is no further than they are from each other.
class LatticeSum final : public BucketSum {
 public:
  LatticeSum(const BucketPlace& place, const Codec& codec)
      : place_(place), codec_(codec, place.isa), messages_(static_cast<size_t>(place.ranks())) {
    for (const auto use : {SumScratch::gathered, SumScratch::result}) place.scratch->reserve(use);
  }

  std::string description() const override { return std::string(codec_.codec().name); }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const std::span<float> mine = gathered(values, place_);
    if (!own.empty()) std::ranges::copy(mine, own.begin());
    if (place_.ranks() == 1) return;
    const CodeSource source = place_.codes(step);
    Outcome outcome{.distance = 0, .failed = distance_ > 0 && encodable(mine) ? 0.0f : 1.0f};
    outcome = agreed(ranks, outcome);
    const std::span<float> total = take(place_, SumScratch::result);
    if (outcome.failed == 0) outcome = agreed(ranks, add_points(ranks, mine, source, part(total, place_.rank)));
    if (outcome.failed == 0 && place_.goes == SumGoes::to_all)
      outcome.failed = agreed(ranks, gather_means(ranks, mine, source.of_sum(), total)).failed;
    if (outcome.failed == 0) put_result(result_of(total, place_), values, place_);
    else outcome = agreed(ranks, send_dense(ranks, values));
    next_distance_ = headroom * outcome.distance;
  }

  void commit() override { distance_ = next_distance_; }
  void discard() override { next_distance_ = distance_; }
  void state(StateList& list, const std::string& prefix) override { list.add_scalar(prefix + "distance", distance_); }

 private:
  struct Outcome {
    float distance = 0;  ///< the largest seen between two ranks
    float failed = 0;    ///< 1: on some rank
  };

  static Outcome agreed(Communicator& ranks, const Outcome& mine) {
    std::array<float, 2> both = {mine.distance, mine.failed};
    max_all_reduce(ranks, both);
    return {both[0], both[1]};
  }

  std::span<float> part(std::span<float> whole, int rank) const {
    return whole.subspan(static_cast<size_t>(place_.part_begin(rank)),
                         static_cast<size_t>(place_.part_elements[static_cast<size_t>(rank)]));
  }
  CodeSource source_of(const CodeSource& source, int part) const {
    int64_t buckets = 0;
    for (int before = 0; before < part; ++before)
      buckets += codec_.codec().buckets_of(place_.part_elements[static_cast<size_t>(before)]);
    return source.from_bucket(buckets);
  }

  /// Of the codes of a part; `from`: whose.
  CodeTerms terms_of(const CodeSource& source, int from, int part) const {
    return {.codec = codec_.codec(),
            .source = source_of(source.of_rank(from), part),
            .ranks = place_.ranks(),
            .length = place_.part_elements[static_cast<size_t>(part)],
            .agreed = hash_of(std::as_bytes(std::span(&distance_, 1)))};
  }
  void encode(std::span<const float> values, const CodeTerms& terms, std::vector<std::byte>& message) {
    message.resize(code_message_bytes(codec_.codec().bytes_of(terms.length)));
    codec_.encode(values, distance_, terms.source, codes_in(std::span(message)));
    seal_codes(message, terms);
  }
  LatticeCodec::Found decode(const std::vector<std::byte>& message, const CodeTerms& terms, std::span<const float> own,
                             std::span<float> values) {
    (void)open_codes(message, terms);  // only values that have codes come here
    return codec_.decode(codes_in(std::span(message)), own, terms.source, values);
  }

  /// sum = what all ranks' points of this rank's part add up to; this rank's own values are a point too.
  Outcome add_points(Communicator& ranks, std::span<float> mine, const CodeSource& source, std::span<float> sum) {
    const int count = place_.ranks(), rank = place_.rank;
    std::vector<Communicator::Send> sends;
    std::vector<Communicator::Receive> receives;
    std::vector<std::vector<std::byte>> outgoing(messages_.size());
    for (int distance = 0; distance < count; ++distance) {
      const int to = (rank + distance) % count, from = (rank + count - distance) % count;
      std::vector<std::byte>&out = outgoing[static_cast<size_t>(to)], &in = messages_[static_cast<size_t>(from)];
      encode(part(mine, to), terms_of(source, rank, to), out);
      in.resize(code_message_bytes(codec_.codec().bytes_of(std::ssize(sum))));
      if (distance == 0) continue;
      sends.push_back({to, out});
      receives.push_back({from, in});
    }
    messages_[static_cast<size_t>(rank)] = outgoing[static_cast<size_t>(rank)];
    ranks.transfer(sends, receives);
    Outcome outcome;
    point_.resize(sum.size());
    for (int from = 0; from < count; ++from) {
      const auto found =
          decode(messages_[static_cast<size_t>(from)], terms_of(source, from, rank), part(mine, rank), point_);
      if (found == LatticeCodec::Found::too_far) outcome.failed = 1;
      outcome.distance = std::max(outcome.distance, codec_.difference(point_, part(mine, rank), source));
      if (from == 0) std::ranges::copy(point_, sum.begin());
      else std::ranges::transform(sum, point_, sum.begin(), std::plus());
    }
    return outcome;
  }

  Outcome gather_means(Communicator& ranks, std::span<float> mine, const CodeSource& source, std::span<float> total) {
    const auto count = static_cast<float>(place_.ranks());
    const std::span<float> own = part(total, place_.rank);
    point_.resize(own.size());
    std::ranges::transform(own, point_.begin(), [&](float value) { return value / count; });
    Parts parts;
    for (int rank = 0; rank < place_.ranks(); ++rank) {
      std::vector<std::byte>& message = messages_[static_cast<size_t>(rank)];
      message.resize(code_message_bytes(codec_.codec().bytes_of(std::ssize(part(total, rank)))));
      if (rank == place_.rank) encode(point_, terms_of(source, rank, rank), message);
      parts.push_back({std::span(message)});
    }
    all_gather(ranks, parts);
    Outcome outcome;
    for (int rank = 0; rank < place_.ranks(); ++rank) {
      const std::span<float> mean = part(total, rank);
      if (decode(messages_[static_cast<size_t>(rank)], terms_of(source, rank, rank), part(mine, rank), mean) ==
          LatticeCodec::Found::too_far)
        outcome.failed = 1;
      for (float& value : mean) value *= count;
    }
    return outcome;
  }

  /// All values as they are, from which their distance is seen.
  Outcome send_dense(Communicator& ranks, const Parts& values) {
    Outcome outcome;
    const std::span<float> sum = part(take(place_, SumScratch::result), place_.rank);
    scatter_to_owners(ranks, values, Wire::f32,
                      [&](int64_t first, int64_t count, std::span<const float* const> contributions) {
                        const auto n = static_cast<size_t>(count);
                        const std::span<float> here = sum.subspan(static_cast<size_t>(first), n);
                        const std::span<const float> own(contributions[static_cast<size_t>(place_.rank)], n);
                        for (size_t rank = 0; rank < contributions.size(); ++rank) {
                          const std::span<const float> theirs(contributions[rank], n);
                          const float apart = largest_difference(theirs, own);
                          if (std::isfinite(apart)) outcome.distance = std::max(outcome.distance, apart);
                          if (rank == 0) point_.assign(theirs.begin(), theirs.end());
                          else std::ranges::transform(point_, theirs, point_.begin(), std::plus());
                        }
                        std::ranges::copy(point_, here.begin());
                      });
    scattered(sum, values[static_cast<size_t>(place_.rank)]);
    if (place_.goes == SumGoes::to_all) all_gather(ranks, values);
    return outcome;
  }

  BucketPlace place_;
  LatticeCodec codec_;
  std::vector<std::vector<std::byte>> messages_;  ///< by rank
  std::vector<float> point_;
  float distance_ = 0, next_distance_ = 0;  ///< 0: nothing is known of it
};

}  // namespace

BucketSumPointer make_lattice_sum(const BucketPlace& place, const Codec& codec) {
  return std::make_unique<LatticeSum>(place, codec);
}

}  // namespace nibble
