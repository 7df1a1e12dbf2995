#include "comm/sums_of_buckets.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>

namespace nibble {

SumsOfBuckets::SumsOfBuckets(const std::vector<BucketPlace>& places, const MakeBucketSum& make_sum) {
  for (const BucketPlace& place : places) {
    sums_.push_back(make_sum(place));
    samples_.emplace_back(place);
  }
}

std::string SumsOfBuckets::description() const {
  std::map<std::string, int> buckets;
  for (const BucketSumPointer& sum : sums_) ++buckets[sum->description()];
  std::string text;
  for (const auto& [description, count] : buckets)
    text += fmt::format("{}{} ({} of {} buckets)", text.empty() ? "" : "; ", description, count, sums_.size());
  return buckets.size() == 1 ? buckets.begin()->first : text;
}

bool SumsOfBuckets::compares_points() const {
  return std::ranges::any_of(sums_, [](const BucketSumPointer& sum) { return sum->compares_points(); });
}

int64_t SumsOfBuckets::batches(int64_t step) const {
  return most_of([=](const BucketSum& sum) { return sum.batches(step); });
}

int64_t SumsOfBuckets::most_batches() const { return most_of(&BucketSum::most_batches); }

int SumsOfBuckets::evaluations(int64_t step) const {
  return static_cast<int>(most_of([=](const BucketSum& sum) { return sum.evaluations(step); }));
}

void SumsOfBuckets::keep(Communicator& ranks, int evaluation, int bucket, const Parts& gradient) {
  sums_[static_cast<size_t>(bucket)]->keep(ranks, evaluation, gradient);
}

void SumsOfBuckets::sum(Communicator& ranks, int bucket, const Parts& gradient, int64_t step) {
  SampledError& sample = samples_[static_cast<size_t>(bucket)];
  sample.take(ranks, gradient, step);
  sums_[static_cast<size_t>(bucket)]->sum(ranks, gradient, step, {});
  sample.take_sum(ranks, gradient, step);
}

ExchangeReport SumsOfBuckets::report(Communicator& ranks) {
  Parts samples(static_cast<size_t>(ranks.size()));
  for (SampledError& sample : samples_) {
    const Parts parts = sample.parts();
    for (size_t rank = 0; rank < samples.size(); ++rank)
      samples[rank].insert(samples[rank].end(), parts[rank].begin(), parts[rank].end());
  }
  reduce_scatter(ranks.host(), samples, Wire::f32);
  using Squares = std::array<double, 5>;
  Squares mine{}, total{};
  for (size_t bucket = 0; bucket < sums_.size(); ++bucket) {
    const SquaresOfSum sum = samples_[bucket].squares();
    const DifferenceSquares difference = sums_[bucket]->difference_squares();
    const Squares more = {sum.error, sum.exact, sums_[bucket]->residual_square(), difference.difference,
                          difference.noise};
    std::ranges::transform(mine, more, mine.begin(), std::plus());
  }
  std::vector<double> all(samples.size() * mine.size());
  gather_all(ranks, mine, std::vector<int64_t>(samples.size(), std::ssize(mine)), all);
  for (size_t i = 0; i < all.size(); ++i) total[i % total.size()] += all[i];
  const auto [error, exact, residual, difference, noise] = total;
  ExchangeReport report{.relative_error = std::sqrt(error / exact), .residual_norm = std::sqrt(residual)};
  if (difference > 0) report.signal_ratio = std::sqrt(std::max(difference - noise, 0.0) / noise);
  return report;
}

void SumsOfBuckets::commit() {
  for (const BucketSumPointer& sum : sums_) sum->commit();
}

void SumsOfBuckets::discard() {
  for (const BucketSumPointer& sum : sums_) sum->discard();
}

void SumsOfBuckets::state(StateList& list, const std::string& prefix) {
  for (size_t bucket = 0; bucket < sums_.size(); ++bucket)
    sums_[bucket]->state(list, fmt::format("{}bucket{}/", prefix, bucket));
}

}  // namespace nibble
