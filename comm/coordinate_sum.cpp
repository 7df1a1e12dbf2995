#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/coordinate_sample.hpp"

namespace nibble {
namespace {

class CoordinateSum final : public BucketSum {
 public:
  CoordinateSum(const BucketPlace& place, double kept) : place_(place), kept_(kept) {
    place.scratch->reserve(SumScratch::gathered);
  }

  std::string description() const override {
    return kept_ == 0 ? "permutation" : fmt::format("random {:.3g}%", 100 * kept_);
  }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const std::span<const float> vector = gathered(values, place_);
    // Before what is sent of the coordinates stands a value that is not finite if any of them all is not.
    Parts messages;
    messages_.resize(static_cast<size_t>(place_.ranks()));
    for (int rank = 0; rank < place_.ranks(); ++rank) {
      std::vector<float>& message = messages_[static_cast<size_t>(rank)];
      message.assign(static_cast<size_t>(1 + sample(rank, step).size()), 0.0f);
      messages.push_back({std::as_writable_bytes(std::span(message))});
    }
    std::vector<float>& mine = messages_[static_cast<size_t>(place_.rank)];
    for (const float value : vector) mine[0] += value * 0;
    sample(place_.rank, step).select(vector, std::span(mine).subspan(1));
    if (!own.empty()) add(place_.rank, step, own, true);
    all_gather(ranks, messages);
    total_.resize(vector.size());
    for (int rank = 0; rank < place_.ranks(); ++rank) add(rank, step, total_, rank == 0);
    put_result(result_of(std::span<const float>(total_), place_), values, place_);
  }

 private:
  CoordinateSample sample(int rank, int64_t step) const {
    const CodeSource source = place_.codes(step).of_rank(rank);
    const int64_t count = place_.elements();
    if (kept_ == 0) return CoordinateSample::permutation(count, place_.ranks(), source);
    return CoordinateSample::random(count, std::max<int64_t>(1, std::llround(kept_ * double(count))), source);
  }
  void add(int rank, int64_t step, std::span<float> sum, bool first) const {
    const std::span<const float> message = messages_[static_cast<size_t>(rank)];
    if (first) std::ranges::fill(sum, 0.0f);
    if (message[0] != 0) std::ranges::fill(sum, message[0]);
    sample(rank, step).add(message.subspan(1), sum);
  }

  BucketPlace place_;
  double kept_;
  std::vector<float> total_;
  std::vector<std::vector<float>> messages_;  ///< by rank
};

}  // namespace

BucketSumPointer make_coordinate_sum(const BucketPlace& place, double kept) {
  return std::make_unique<CoordinateSum>(place, kept);
}

}  // namespace nibble
