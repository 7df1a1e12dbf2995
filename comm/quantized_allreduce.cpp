#include "comm/quantized_allreduce.hpp"

#include <algorithm>
#include <limits>

#include "comm/packed_parts.hpp"

namespace nibble {

void QuantizedAllReduce::prepare(const Parts& parts, const CodeSource& source) {
  const Codec& row = codec_.codec();
  int64_t first_bucket = 0;
  copies_.resize(parts.size());
  parts_.clear();
  for (size_t r = 0; r < parts.size(); ++r) {
    const std::span<float> values = gathered(parts[r], growing(copies_[r]));
    Part& part = parts_.emplace_back(values);
    const int64_t step = std::max<int64_t>(1, segment_values / row.bucket),
                  buckets = row.buckets_of(std::ssize(values));
    for (int64_t first = 0; first < buckets; first += step) {
      const auto begin = static_cast<size_t>(first * row.bucket), length = static_cast<size_t>(step * row.bucket);
      part.segments.push_back({.values = values.subspan(begin, std::min(length, values.size() - begin)),
                               .source = source.from_bucket(first_bucket + first)});
    }
    first_bucket += buckets;
  }
  encodable_ = everybodys_ = can_encode();
}

bool QuantizedAllReduce::can_encode() const {
  return std::ranges::all_of(parts_, [&](const Part& part) { return codec_.can_encode(part.values); });
}

bool QuantizedAllReduce::all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                    SumGoes goes) {
  rank_ = communicator.rank();
  ranks_ = communicator.size();
  prepare(parts, source);
  if (ranks_ == 1) return encodable_;
  if (goes == SumGoes::to_all && ranks_ == 2) sum_everywhere(communicator);
  else sum_at_owners(communicator, goes);
  for (size_t r = 0; r < parts.size(); ++r) {
    if (goes == SumGoes::to_owner && r != static_cast<size_t>(rank_)) continue;
    if (everybodys_) scattered(parts_[r].values, parts[r]);
    else fill_with_nan(parts[r]);
  }
  return everybodys_;
}

void QuantizedAllReduce::contribution(const Parts& parts, const CodeSource& source, std::span<float> own) {
  prepare(parts, source);
  if (!encodable_) {
    std::ranges::fill(own, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  std::vector<std::byte> codes;
  for (const Part& part : parts_)
    for (const Segment& segment : part.segments) {
      codes.resize(codec_.codec().bytes_of(std::ssize(segment.values)));
      codec_.encode(segment.values, segment.source, codes);
      codec_.decode(codes, segment.source, own.first(segment.values.size()));
      own = own.subspan(segment.values.size());
    }
}

CodeTerms QuantizedAllReduce::terms_of(const Segment& segment, int from) const {
  return {.codec = codec_.codec(),
          .source = segment.source.of_rank(from),
          .ranks = ranks_,
          .length = std::ssize(segment.values)};
}

size_t QuantizedAllReduce::bytes_of_codes(int part, size_t segment) const {
  return code_message_bytes(codec_.codec().bytes_of(std::ssize(at(part, segment).values)));
}

void QuantizedAllReduce::encode(int part, size_t segment, std::span<std::byte> message) {
  const Segment& mine = at(part, segment);
  if (encodable_) codec_.encode(mine.values, mine.source, codes_in(message));
  seal_codes(message, terms_of(mine, rank_), encodable_);
}

void QuantizedAllReduce::add(int part, size_t segment, const Messages& messages) {
  const Segment& sum = at(part, segment);
  added_ = true;
  for (int from = 0; from < ranks_; ++from)
    added_ = open_codes(messages[static_cast<size_t>(from)], terms_of(sum, from)) && added_;
  everybodys_ = everybodys_ && added_;
  if (!added_) return;
  for (int from = 0; from < ranks_; ++from) {
    const std::span<const std::byte> codes = codes_in(std::span<const std::byte>(messages[static_cast<size_t>(from)]));
    if (from == 0) codec_.decode(codes, sum.source.of_rank(from), sum.values);
    else codec_.decode_and_add(codes, sum.source.of_rank(from), sum.values);
  }
}

void QuantizedAllReduce::encode_sum(int part, size_t segment, std::span<std::byte> message) {
  const Segment& sum = at(part, segment);
  const CodeTerms terms = terms_of(sum, rank_).of_sum();
  seal_codes(message, terms, added_ && codec_.try_encode(sum.values, terms.source, codes_in(message)));
}

void QuantizedAllReduce::decode_sum(int part, size_t segment, std::span<const std::byte> message) {
  const Segment& sum = at(part, segment);
  const CodeTerms terms = terms_of(sum, part).of_sum();
  const bool has_codes = open_codes(message, terms);
  everybodys_ = everybodys_ && has_codes;
  if (has_codes) codec_.decode(codes_in(message), terms.source, sum.values);
}

}  // namespace nibble
