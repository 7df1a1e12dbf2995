#include "comm/quantized_allreduce.hpp"

#include <algorithm>

namespace nibble {

void QuantizedAllReduce::reserve(const std::vector<int64_t>& part_elements, SumGoes goes) {
  codes_->reserve(part_elements);
  const auto ranks = static_cast<int>(part_elements.size());
  if (ranks < 2) return;
  const Codec& codec = codes_->codec();
  const int64_t longest = std::ranges::max(part_elements), step = values_of_segment(codec);
  const size_t bytes = code_message_bytes(codec.bytes_of(std::min(longest, step)));
  if (adds_everywhere(ranks, goes)) reserve_everywhere(ranks, bytes);
  else reserve_at_owners(ranks, goes, static_cast<size_t>((longest + step - 1) / step), bytes);
}

void QuantizedAllReduce::prepare(const Parts& parts, const CodeSource& source) {
  const Codec& row = codes_->codec();
  const int64_t step = values_of_segment(row);
  int64_t first_bucket = 0;
  size_t codes_begin = 0;
  parts_.clear();
  for (size_t r = 0; r < parts.size(); ++r) {
    const std::span<float> values = codes_->gathered(parts[r], r);
    const int64_t count = std::ssize(values);
    CodedPart& part = parts_.emplace_back(CodedSegment{values, source.from_bucket(first_bucket), codes_begin});
    for (int64_t first = 0; first < count; first += step)
      part.segments.push_back(
          {.values = values.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(step, count - first))),
           .source = part.whole.source.from_bucket(first / row.bucket),
           .codes_begin = codes_begin + row.bytes_of(first)});
    first_bucket += row.buckets_of(count);
    codes_begin += padded_codes(row, count);
  }
  encodable_ = everybodys_ = codes_->prepare(parts_);
}

bool QuantizedAllReduce::all_reduce(Communicator& ranks, const Parts& parts, const CodeSource& source, SumGoes goes,
                                    std::span<float> own) {
  rank_ = ranks.rank();
  ranks_ = ranks.size();
  codes_->begin(ranks);
  prepare(parts, source);
  if (!own.empty()) {
    if (encodable_) codes_->contribution(parts_, own);
    else codes_->fill_with_nan({std::as_writable_bytes(own)});
  }
  if (ranks_ > 1) {
    if (adds_everywhere(ranks_, goes)) sum_everywhere(ranks.host());
    else sum_at_owners(ranks.host(), goes);
    for (size_t r = 0; r < parts.size(); ++r) {
      if (goes == SumGoes::to_owner && r != static_cast<size_t>(rank_)) continue;
      if (everybodys_) codes_->scattered(parts_[r].whole.values, parts[r]);
      else codes_->fill_with_nan(parts[r]);
    }
  }
  codes_->finish();
  return everybodys_;
}

CodeTerms QuantizedAllReduce::terms_of(const CodedSegment& segment, int from) const {
  return {.codec = codes_->codec(),
          .source = segment.source.of_rank(from),
          .ranks = ranks_,
          .length = std::ssize(segment.values)};
}

size_t QuantizedAllReduce::bytes_of_codes(int part, size_t segment) const {
  return code_message_bytes(codes_->codec().bytes_of(std::ssize(at(part, segment).values)));
}

void QuantizedAllReduce::encode(int part, size_t segment, std::span<std::byte> message) {
  const CodedSegment& mine = at(part, segment);
  if (encodable_) codes_->encode(mine, codes_in(message));
  seal_codes(message, terms_of(mine, rank_), encodable_);
}

void QuantizedAllReduce::add(int part, size_t segment, const Messages& messages) {
  const CodedSegment& sum = at(part, segment);
  added_ = true;
  std::vector<std::span<const std::byte>> codes;
  for (int from = 0; from < ranks_; ++from) {
    const std::span<const std::byte> message = messages[static_cast<size_t>(from)];
    added_ = open_codes(message, terms_of(sum, from)) && added_;
    codes.push_back(codes_in(message));
  }
  everybodys_ = everybodys_ && added_;
  if (added_) codes_->add(sum, codes);
}

void QuantizedAllReduce::encode_sum(int part, size_t segment, std::span<std::byte> message) {
  const CodedSegment& sum = at(part, segment);
  const CodeTerms terms = terms_of(sum, rank_).of_sum();
  seal_codes(message, terms, added_ && codes_->encode_sum(sum, terms.source, codes_in(message)));
}

void QuantizedAllReduce::decode_sum(int part, size_t segment, std::span<const std::byte> message) {
  const CodedSegment& sum = at(part, segment);
  const CodeTerms terms = terms_of(sum, part).of_sum();
  const bool has_codes = open_codes(message, terms);
  everybodys_ = everybodys_ && has_codes;
  if (has_codes) codes_->decode_sum(sum, terms.source, codes_in(message));
}

}  // namespace nibble
