#include "comm/sampled_error.hpp"

#include <algorithm>

#include "comm/pieces.hpp"

namespace nibble {
namespace {

/// Of a bucket: some 2000 of a model of 20 buckets. 512 bytes, of the 25 KB that Top-k with 4 of 512 sends of a million
/// values.
constexpr int64_t samples = 128;

float value_at(const Pieces& pieces, int64_t element) {
  float value = 0;
  pack(pieces, static_cast<size_t>(element) * sizeof(float), std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

}  // namespace

SampledError::SampledError(const BucketPlace& place) : place_(place), begins_{0} {
  const int64_t of_part = std::max<int64_t>(1, samples / place.ranks());
  for (const int64_t elements : place.part_elements) begins_.push_back(begins_.back() + std::min(of_part, elements));
  values_.resize(static_cast<size_t>(begins_.back()));
  sum_.resize(values_.size());
}

// One element of each of as many equal stretches, at a random place in it.
int64_t SampledError::element(int part, int64_t i, int64_t step) const {
  const auto p = static_cast<size_t>(part);
  const int64_t count = begins_[p + 1] - begins_[p], elements = place_.part_elements[p];
  const int64_t first = elements * i / count, last = elements * (i + 1) / count;
  const uint32_t word =
      word_of_part(place_.codes(step).stream(part), CodeSource::error_sample, static_cast<uint32_t>(i));
  return first + static_cast<int64_t>(uint64_t{word} * static_cast<uint64_t>(last - first) >> 32);
}

std::span<float> SampledError::of_part(int part) {
  const auto p = static_cast<size_t>(part);
  return std::span(values_).subspan(static_cast<size_t>(begins_[p]), static_cast<size_t>(begins_[p + 1] - begins_[p]));
}

void SampledError::take(const Parts& values, int64_t step) {
  for (int part = 0; part < place_.ranks(); ++part) {
    const std::span<float> of = of_part(part);
    for (size_t i = 0; i < of.size(); ++i)
      of[i] = value_at(values[static_cast<size_t>(part)], element(part, static_cast<int64_t>(i), step));
  }
}

void SampledError::take_sum(const Parts& values, int64_t step) {
  const std::span<const float> own = of_part(place_.rank);
  for (size_t i = 0; i < own.size(); ++i)
    sum_[i] = value_at(values[static_cast<size_t>(place_.rank)], element(place_.rank, static_cast<int64_t>(i), step));
}

Parts SampledError::parts() {
  Parts parts;
  for (int part = 0; part < place_.ranks(); ++part) parts.push_back({std::as_writable_bytes(of_part(part))});
  return parts;
}

SquaresOfSum SampledError::squares() const {
  const auto rank = static_cast<size_t>(place_.rank);
  const std::span<const float> exact = std::span(values_).subspan(
      static_cast<size_t>(begins_[rank]), static_cast<size_t>(begins_[rank + 1] - begins_[rank]));
  SquaresOfSum squares;
  for (size_t i = 0; i < exact.size(); ++i) {
    squares.exact += double(exact[i]) * exact[i];
    squares.error += (double(sum_[i]) - exact[i]) * (double(sum_[i]) - exact[i]);
  }
  return squares;
}

}  // namespace nibble
