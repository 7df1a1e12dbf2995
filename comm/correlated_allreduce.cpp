#include "comm/correlated_allreduce.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "comm/bit_packing.hpp"
#include "comm/code_error.hpp"
#include "comm/max_all_reduce.hpp"
#include "comm/packed_parts.hpp"

namespace nibble {

void CorrelatedAllReduce::prepare(const Parts& parts, const CodeSource& source) {
  const Codec& row = codec_.codec();
  int64_t buckets = 0, first_bucket = 0;
  for (const Pieces& pieces : parts) buckets += row.buckets_of(values_of(pieces));
  ranges_.resize(static_cast<size_t>(buckets));
  copies_.resize(parts.size());
  parts_.clear();
  for (size_t r = 0; r < parts.size(); ++r) {
    const auto codes = static_cast<size_t>(row.padded(values_of(parts[r])));
    const CodeSource own = source.from_bucket(first_bucket);
    std::vector<float>& copy = copies_[r];
    const bool rotates = row.rotation != Codec::Rotation::none;
    if (rotates) copy.resize(std::max(copy.size(), codes));
    const std::span<float> values = gathered(parts[r], growing(copy)),
                           prepared = rotates ? std::span(copy).first(codes) : values;
    if (rotates) codec_.prepare(values, own, prepared);
    Part& part = parts_.emplace_back(prepared.first(values.size()));
    const int64_t step = std::max<int64_t>(1, segment_values / row.bucket);
    for (int64_t first = 0; first < row.buckets_of(std::ssize(values)); first += step) {
      const int64_t begin = first * row.bucket;
      Segment& segment = part.segments.emplace_back();
      segment.values = std::min(step * row.bucket, std::ssize(values) - begin);
      segment.prepared = prepared.subspan(static_cast<size_t>(begin), static_cast<size_t>(row.padded(segment.values)));
      segment.ranges = std::span(ranges_).subspan(static_cast<size_t>(first_bucket + first),
                                                  static_cast<size_t>(row.buckets_of(segment.values)));
      segment.source = own.from_bucket(first);
      codec_.ranges(segment.prepared, segment.ranges);
    }
    first_bucket += row.buckets_of(std::ssize(values));
  }
}

bool CorrelatedAllReduce::all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                     SumGoes goes) {
  assert(communicator.size() == codec_.ranks() && parts.size() == static_cast<size_t>(codec_.ranks()));
  prepare(parts, source);
  if (codec_.ranks() > 1) max_all_reduce(communicator, ranges_);
  const bool finite = std::ranges::all_of(ranges_, [](float range) { return std::isfinite(range); });
  if (codec_.ranks() == 1) return finite;
  rank_ = communicator.rank();
  agreed_ = hash_of(std::as_bytes(std::span(ranges_)));
  order_ = order_of_ranks(source, codec_.ranks());
  if (finite && goes == SumGoes::to_all && everybody_counts()) sum_everywhere(communicator);
  else if (finite) sum_at_owners(communicator, goes);
  for (size_t r = 0; r < parts.size(); ++r) {
    if (goes == SumGoes::to_owner && r != static_cast<size_t>(rank_)) continue;
    if (finite) scattered(parts_[r].values, parts[r]);
    else fill_with_nan(parts[r]);
  }
  return finite;
}

bool CorrelatedAllReduce::everybody_counts() const {
  if (way_ != Way::cheaper) return way_ == Way::everybody_counts;
  // Bits that all ranks send together for a value, divided by ranks - 1.
  return codec_.ranks() * codec_.codec().bits <= codec_.codec().bits + codec_.count_bits();
}

CodeTerms CorrelatedAllReduce::terms_of(const Segment& segment, int from) const {
  return {.codec = codec_.codec(),
          .source = segment.source.of_rank(from),
          .ranks = codec_.ranks(),
          .length = segment.values,
          .agreed = agreed_};
}

size_t CorrelatedAllReduce::bytes_of_codes(int part, size_t segment) const {
  return code_message_bytes(packed_bytes(std::ssize(at(part, segment).prepared), codec_.codec().bits));
}

size_t CorrelatedAllReduce::bytes_of_sum(int part, size_t segment) const {
  return code_message_bytes(packed_bytes(std::ssize(at(part, segment).prepared), codec_.count_bits()));
}

void CorrelatedAllReduce::encode(int part, size_t segment, std::span<std::byte> message) {
  const Segment& mine = at(part, segment);
  codec_.encode(mine.prepared, mine.ranges, mine.source, order_[static_cast<size_t>(rank_)], codes_in(message));
  seal_codes(message, terms_of(mine, rank_));
}

void CorrelatedAllReduce::add(int part, size_t segment, const Messages& messages) {
  const Segment& sum = at(part, segment);
  for (int from = 0; from < codec_.ranks(); ++from)
    (void)open_codes(messages[static_cast<size_t>(from)], terms_of(sum, from));
  counts_.resize(std::max(counts_.size(), sum.prepared.size()));
  const std::span<uint16_t> counts = std::span(counts_).first(sum.prepared.size());
  std::ranges::fill(counts, uint16_t{0});
  const auto bucket = static_cast<size_t>(codec_.codec().bucket);
  for (size_t first = 0; first < counts.size(); first += bucket) {  // all ranks' while the counts are in the cache
    const std::span<uint16_t> here = counts.subspan(first, std::min(bucket, counts.size() - first));
    const size_t begin = packed_bytes(static_cast<int64_t>(first), codec_.codec().bits),
                 bytes = packed_bytes(std::ssize(here), codec_.codec().bits);
    for (int from = 0; from < codec_.ranks(); ++from)
      codec_.count(codes_in(std::span<const std::byte>(messages[static_cast<size_t>(from)])).subspan(begin, bytes),
                   sum.source.of_rank(from).from_bucket(static_cast<int64_t>(first / bucket)), here);
  }
}

void CorrelatedAllReduce::keep_sum(int part, size_t segment) {
  const Segment& sum = at(part, segment);
  codec_.decode(counts_, sum.ranges, sum.source, sum.prepared.first(static_cast<size_t>(sum.values)));
}

void CorrelatedAllReduce::encode_sum(int part, size_t segment, std::span<std::byte> message) {
  const Segment& sum = at(part, segment);
  pack_bits(std::span<const uint16_t>(counts_).first(sum.prepared.size()), codec_.count_bits(), codes_in(message));
  seal_codes(message, terms_of(sum, rank_).of_sum());
}

void CorrelatedAllReduce::decode_sum(int part, size_t segment, std::span<const std::byte> message) {
  const Segment& sum = at(part, segment);
  const CodeTerms terms = terms_of(sum, part).of_sum();
  (void)open_codes(message, terms);
  counts_.resize(std::max(counts_.size(), sum.prepared.size()));
  if (!unpack_bits(codes_in(message), codec_.count_bits(), std::span(counts_).first(sum.prepared.size())))
    refuse_message(terms.source, "bits behind the last sum of codes", "zeros");
  keep_sum(part, segment);
}

}  // namespace nibble
