#include "comm/sampled_error.hpp"

#include <algorithm>

#include "comm/cuda/kernels.hpp"
#include "comm/pieces.hpp"
#include "tensor/staging.hpp"

namespace nibble {
namespace {

/// Of a bucket: some 2000 of a model of 20 buckets. 512 bytes, of the 25 KB that Top-k with 4 of 512 sends of a million
/// values.
constexpr int64_t samples = 128;

const float* address_of(const Pieces& pieces, int64_t element) {
  constexpr size_t bytes = sizeof(float);
  return reinterpret_cast<const float*>(one_run(pieces, static_cast<size_t>(element) * bytes, bytes).data());
}

/// values = *addresses, of the host's memory or of a device's.
void fetch(Communicator& ranks, std::span<const float* const> addresses, std::span<float> values) {
  Stream* const stream = ranks.stream();
  if (!stream) {
    for (size_t i = 0; i < addresses.size(); ++i) values[i] = *addresses[i];
    return;
  }
  if (addresses.empty()) return;
  ranks.wait();  // staging may wait for the stream, and would not see that a rank is gone
  const float* const* const there = stream->staging().send(addresses);
  const Staged<float> fetched = stream->staging().take<float>(addresses.size());
  cuda::gather(*stream, there, std::ssize(addresses), fetched.device);
  stream->queue().copy(fetched.host, fetched.device, addresses.size() * sizeof(float));
  ranks.wait();
  std::copy_n(fetched.host, addresses.size(), values.begin());
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

void SampledError::find_part(const Parts& values, int part, int64_t step, std::vector<const float*>& found) const {
  const auto p = static_cast<size_t>(part);
  for (int64_t i = 0; i < begins_[p + 1] - begins_[p]; ++i)
    found.push_back(address_of(values[p], element(part, i, step)));
}

void SampledError::take(Communicator& ranks, const Parts& values, int64_t step) {
  std::vector<const float*> found;
  for (int part = 0; part < place_.ranks(); ++part) find_part(values, part, step, found);
  fetch(ranks, found, values_);
}

void SampledError::take_sum(Communicator& ranks, const Parts& values, int64_t step) {
  std::vector<const float*> found;
  find_part(values, place_.rank, step, found);
  fetch(ranks, found, sum_);
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
