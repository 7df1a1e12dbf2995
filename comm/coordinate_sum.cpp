#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/coordinate_sample.hpp"
#include "comm/cuda/coordinates.hpp"

namespace nibble {
namespace {

/// A message is the sample's values behind a mark: zero, or infinity if any of all values is not finite.
void write_message(Stream* device, const CoordinateSample& sample, std::span<const float> values,
                   std::span<float> message) {
  if (device) return cuda::write_message(*device, sample, values, message);
  float poison = 0;
  for (const float value : values) poison += value * 0;
  message[0] = poison == 0 ? 0.0f : std::numeric_limits<float>::infinity();
  sample.select(values, message.subspan(1));
}

/// sum += what the message stands for: its mark everywhere, if there is one.
void add_message(Stream* device, const CoordinateSample& sample, std::span<const float> message, std::span<float> sum) {
  if (device) return cuda::add_message(*device, sample, message, sum);
  if (message[0] != 0) std::ranges::fill(sum, message[0]);
  sample.add(message.subspan(1), sum);
}

class CoordinateSum final : public BucketSum {
 public:
  CoordinateSum(const BucketPlace& place, double kept) : place_(place), kept_(kept) {
    int64_t sent = 0;
    for (int rank = 0; rank < place.ranks(); ++rank) sent += message_elements(rank);
    for (const auto use : {SumScratch::gathered, SumScratch::result}) place.scratch->reserve(use);
    place.scratch->reserve(SumScratch::messages, sent);
  }

  std::string description() const override {
    return kept_ == 0 ? "permutation" : fmt::format("random {:.3g}%", 100 * kept_);
  }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const WireWork work(ranks);
    const auto rank = static_cast<size_t>(place_.rank);
    const std::vector<std::span<float>> messages = messages_of_ranks();
    write_message(ranks.stream(), sample(place_.rank, step), gathered(work, values, place_), messages[rank]);
    if (!own.empty()) {
      work.fill(own, 0);
      add_message(ranks.stream(), sample(place_.rank, step), messages[rank], own);
    }
    Parts parts;
    for (const std::span<float> message : messages) parts.push_back({std::as_writable_bytes(message)});
    all_gather(ranks, parts);
    const std::span<float> total = take(place_, SumScratch::result);
    work.fill(total, 0);
    for (int other = 0; other < place_.ranks(); ++other)
      add_message(ranks.stream(), sample(other, step), messages[static_cast<size_t>(other)], total);
    put_result(work, result_of(total, place_), values, place_);
  }

 private:
  CoordinateSample sample(int rank, int64_t step) const {
    const CodeSource source = place_.codes(step).of_rank(rank);
    const int64_t count = place_.elements();
    if (kept_ == 0 || count == 0) return CoordinateSample::permutation(count, place_.ranks(), source);
    return CoordinateSample::random(count, std::max<int64_t>(1, std::llround(kept_ * double(count))), source);
  }
  /// The same in every step.
  int64_t message_elements(int rank) const { return 1 + sample(rank, 0).size(); }

  std::vector<std::span<float>> messages_of_ranks() const {
    std::vector<std::span<float>> messages;
    int64_t begin = 0;
    for (int rank = 0; rank < place_.ranks(); ++rank) {
      const int64_t elements = message_elements(rank);
      messages.push_back(
          place_.scratch->take(SumScratch::messages, begin + elements).subspan(static_cast<size_t>(begin)));
      begin += elements;
    }
    return messages;
  }

  BucketPlace place_;
  double kept_;
};

}  // namespace

BucketSumPointer make_coordinate_sum(const BucketPlace& place, double kept) {
  return std::make_unique<CoordinateSum>(place, kept);
}

}  // namespace nibble
