#include "comm/correlated_codec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "comm/bit_packing.hpp"
#include "comm/bucket_codec.hpp"
#include "comm/code_error.hpp"
#include "tensor/error.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

constexpr int most_counts = 65535;

}  // namespace

std::vector<int> order_of_ranks(const CodeSource& source, int ranks) {
  const RandomStream stream(source.seed, gradient_codes, source.step);
  std::vector<int> order(static_cast<size_t>(ranks));
  std::iota(order.begin(), order.end(), 0);
  for (uint32_t i = static_cast<uint32_t>(ranks); i-- > 1;) {  // Fisher and Yates
    const uint64_t word = word_of_part(stream, CodeSource::rank_order, i);
    std::swap(order[i], order[word * (i + 1) >> 32]);
  }
  return order;
}

CorrelatedCodec::CorrelatedCodec(const Codec& codec, int ranks, Isa isa)
    : codec_(codec),
      kernels_(code_kernels(isa)),
      ranks_(ranks),
      codes_((static_cast<size_t>(codec.bucket) + 63) / 64 * 64),
      values_(static_cast<size_t>(codec.bucket)) {
  if (codec.rounding != Codec::Rounding::correlated)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "this codec is not correlated",
                 .seen = std::string(codec.name),
                 .allowed = "correlated, rotated-correlated"});
  const int most_ranks = most_counts / ((1 << codec.bits) - 1);
  if (ranks > std::min(most_ranks, most_ranks_of_codes))
    throw Error({.kind = ErrorKind::configuration,
                 .what = "so many ranks cannot sum codes of this size",
                 .seen = fmt::format("{} ranks, codec {}", ranks, codec.name),
                 .allowed = fmt::format("at most {}", std::min(most_ranks, most_ranks_of_codes)),
                 .next = "choose a codec of fewer bits"});
}

int CorrelatedCodec::count_bits() const {
  return static_cast<int>(std::bit_width(static_cast<uint32_t>(ranks_ * ((1 << codec_.bits) - 1))));
}

void CorrelatedCodec::prepare(std::span<const float> values, const CodeSource& source,
                              std::span<float> prepared) const {
  assert(static_cast<int64_t>(prepared.size()) == codec_.padded(static_cast<int64_t>(values.size())));
  if (codec_.rotation == Codec::Rotation::none) {
    if (values.data() != prepared.data()) std::ranges::copy(values, prepared.begin());
    return;
  }
  for (int64_t bucket = 0; !values.empty(); ++bucket) {
    const auto count = static_cast<int64_t>(std::min(values.size(), static_cast<size_t>(codec_.bucket)));
    const std::span<float> here = prepared.first(static_cast<size_t>(codec_.codes_of(count)));
    kernels_.rotate(values.first(static_cast<size_t>(count)), here, source.stream(bucket), source.shared_signs());
    values = values.subspan(static_cast<size_t>(count));
    prepared = prepared.subspan(here.size());
  }
}

void CorrelatedCodec::ranges(std::span<const float> prepared, std::span<float> of_buckets) const {
  for (float& range : of_buckets) {
    const std::span<const float> here = prepared.first(std::min(prepared.size(), static_cast<size_t>(codec_.bucket)));
    prepared = prepared.subspan(here.size());
    const uint32_t bits = kernels_.largest_magnitude_bits(here);
    range = encodable_magnitude(bits) ? std::bit_cast<float>(bits) : std::numeric_limits<float>::infinity();
  }
}

void CorrelatedCodec::encode(std::span<const float> prepared, std::span<const float> ranges, const CodeSource& source,
                             int place, std::span<std::byte> codes) {
  const auto n = static_cast<uint32_t>(ranks_);
  for (size_t bucket = 0; bucket < ranges.size(); ++bucket) {
    const std::span<const float> here = prepared.first(std::min(prepared.size(), static_cast<size_t>(codec_.bucket)));
    prepared = prepared.subspan(here.size());
    const RandomStream stream = source.stream(static_cast<int64_t>(bucket));
    const CorrelatedLevels bucket_levels = levels(stream).within(ranges[bucket], codec_.bits);
    const Stratum stratum{n, static_cast<uint32_t>(place), source.correlated_thresholds()};
    kernels_.encode_correlated(bucket_levels, stratum, here, stream, codes_.data());
    const size_t bytes = packed_bytes(static_cast<int64_t>(here.size()), codec_.bits);
    kernels_.pack(std::span<const uint8_t>(codes_).first(here.size()), codec_.bits, codes.first(bytes));
    codes = codes.subspan(bytes);
  }
}

void CorrelatedCodec::count(std::span<const std::byte> codes, const CodeSource& source, std::span<uint16_t> counts) {
  const auto total = static_cast<int64_t>(counts.size());
  const size_t expected = packed_bytes(total, codec_.bits);  // buckets before the last end with a byte
  if (codes.size() != expected)
    refuse_message(source, fmt::format("{} bytes", codes.size()), fmt::format("{} bytes", expected));
  while (!counts.empty()) {
    const size_t here = std::min(counts.size(), static_cast<size_t>(codec_.bucket));
    const size_t bytes = packed_bytes(static_cast<int64_t>(here), codec_.bits);
    if (!kernels_.unpack(codes.first(bytes), codec_.bits, std::span(codes_).first(here)))
      refuse_message(source, "bits behind the last code", "zeros");
    for (size_t i = 0; i < here; ++i) counts[i] = static_cast<uint16_t>(counts[i] + codes_[i]);
    codes = codes.subspan(bytes);
    counts = counts.subspan(here);
  }
}

void CorrelatedCodec::decode(std::span<const uint16_t> counts, std::span<const float> ranges, const CodeSource& source,
                             std::span<float> sum) {
  const int most = ranks_ * ((1 << codec_.bits) - 1);
  for (size_t bucket = 0; bucket < ranges.size(); ++bucket) {
    const std::span<float> here = sum.first(std::min(sum.size(), static_cast<size_t>(codec_.bucket)));
    sum = sum.subspan(here.size());
    const auto codes = static_cast<size_t>(codec_.codes_of(static_cast<int64_t>(here.size())));
    const RandomStream stream = source.stream(static_cast<int64_t>(bucket));
    const CountMeaning meaning = CountMeaning::of(levels(stream), ranges[bucket], ranks_);
    const bool rotates = codec_.rotation != Codec::Rotation::none;
    const std::span<float> values = rotates ? std::span(values_).first(codes) : here;
    uint16_t largest = 0;
    for (size_t i = 0; i < codes; ++i) {
      largest = std::max(largest, counts[i]);
      values[i] = meaning.value(counts[i]);
    }
    if (largest > most)
      refuse_message(source.from_bucket(static_cast<int64_t>(bucket)), fmt::format("a sum of codes of {}", largest),
                     fmt::format("at most {} of {} ranks", most, ranks_));
    if (rotates) kernels_.unrotate(values, stream, source.shared_signs(), Decoded::replaces, here);
    counts = counts.subspan(codes);
  }
}

}  // namespace nibble
