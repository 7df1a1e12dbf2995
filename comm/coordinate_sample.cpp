#include "comm/coordinate_sample.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>

#include "tensor/error.hpp"

namespace nibble {

RandomOrder::RandomOrder(int64_t count, const RandomStream& stream, uint32_t part)
    : count_(static_cast<uint64_t>(count)),
      half_bits_(std::max(1, (static_cast<int>(std::bit_width(count_ > 0 ? count_ - 1 : 0)) + 1) / 2)) {
  assert(count >= 0 && half_bits_ <= 32);
  for (uint32_t round = 0; round < keys_.size(); ++round) keys_[round] = word_of_part(stream, part, round);
}

CoordinateSample CoordinateSample::permutation(int64_t count, int ranks, const CodeSource& source) {
  const RandomOrder order(count, source.stream(0), CodeSource::permutation);
  return {order, count * source.rank / ranks, count * (source.rank + 1) / ranks, static_cast<float>(ranks)};
}

CoordinateSample CoordinateSample::random(int64_t count, int64_t kept, const CodeSource& source) {
  if (kept < 1 || kept > count)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "a vector does not have so many coordinates to keep",
                 .seen = fmt::format("{}", kept),
                 .allowed = fmt::format("1 to {}", count)});
  const RandomOrder order(count, source.stream(0), source.selection());
  return {order, 0, kept, static_cast<float>(static_cast<double>(count) / static_cast<double>(kept))};
}

void CoordinateSample::select(std::span<const float> values, std::span<float> sent) const {
  for (int64_t i = 0; i < size(); ++i)
    sent[static_cast<size_t>(i)] = factor_ * values[static_cast<size_t>(coordinate(i))];
}

void CoordinateSample::add(std::span<const float> sent, std::span<float> sum) const {
  for (int64_t i = 0; i < size(); ++i) sum[static_cast<size_t>(coordinate(i))] += sent[static_cast<size_t>(i)];
}

}  // namespace nibble
