#include "comm/correlated_allreduce.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "comm/bit_packing.hpp"
#include "comm/code_error.hpp"
#include "comm/max_all_reduce.hpp"
#include "comm/packed_parts.hpp"

namespace nibble {
namespace {

/// Values of a segment: messages of one bit are so long that their latency does not count, and so short that TCP takes
/// them without a handshake. Their counts stay in a core's second-level cache.
constexpr int64_t segment_values = int64_t{1} << 18;

/// Segments that are under way where everybody gets all codes, and where owners count.
constexpr size_t window = 4, turns = 2;

}  // namespace

std::vector<CorrelatedAllReduce::Part> CorrelatedAllReduce::prepare(const Parts& parts, const CodeSource& source) {
  const Codec& row = codec_.codec();
  int64_t buckets = 0, first_bucket = 0;
  for (const Pieces& pieces : parts) buckets += row.buckets_of(values_of(pieces));
  ranges_.resize(static_cast<size_t>(buckets));
  copies_.resize(parts.size());
  std::vector<Part> all;
  for (size_t r = 0; r < parts.size(); ++r) {
    const auto codes = static_cast<size_t>(row.padded(values_of(parts[r])));
    const CodeSource own = source.from_bucket(first_bucket);
    std::vector<float>& copy = copies_[r];
    const bool rotates = row.rotation != Codec::Rotation::none;
    if (rotates) copy.resize(std::max(copy.size(), codes));
    const std::span<float> values = gathered(parts[r], growing(copy)),
                           prepared = rotates ? std::span(copy).first(codes) : values;
    if (rotates) codec_.prepare(values, own, prepared);
    Part& part = all.emplace_back(prepared.first(values.size()));
    const int64_t step = std::max<int64_t>(1, segment_values / row.bucket);
    for (int64_t first = 0; first < row.buckets_of(std::ssize(values)); first += step) {
      const int64_t begin = first * row.bucket, length = step * row.bucket;
      Segment& segment = part.segments.emplace_back();
      segment.values = std::min(length, std::ssize(values) - begin);
      segment.prepared = prepared.subspan(static_cast<size_t>(begin), static_cast<size_t>(row.padded(segment.values)));
      segment.ranges = std::span(ranges_).subspan(static_cast<size_t>(first_bucket + first),
                                                  static_cast<size_t>(row.buckets_of(segment.values)));
      segment.source = own.from_bucket(first);
      codec_.ranges(segment.prepared, segment.ranges);
    }
    first_bucket += row.buckets_of(std::ssize(values));
  }
  return all;
}

bool CorrelatedAllReduce::all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                     SumGoes goes) {
  assert(communicator.size() == codec_.ranks() && parts.size() == static_cast<size_t>(codec_.ranks()));
  const std::vector<Part> all = prepare(parts, source);
  if (codec_.ranks() > 1) max_all_reduce(communicator, ranges_);
  const bool finite = std::ranges::all_of(ranges_, [](float range) { return std::isfinite(range); });
  if (codec_.ranks() == 1) return finite;
  agreed_ = hash_of(std::as_bytes(std::span(ranges_)));
  order_ = order_of_ranks(source, codec_.ranks());
  if (finite && goes == SumGoes::to_all && everybody_counts()) gather_codes(communicator, all);
  else if (finite) count_as_owner(communicator, all, goes);
  for (size_t r = 0; r < parts.size(); ++r) {
    if (goes == SumGoes::to_owner && r != static_cast<size_t>(communicator.rank())) continue;
    if (finite) scattered(all[r].values, parts[r]);
    else fill_with_nan(parts[r]);
  }
  return finite;
}

bool CorrelatedAllReduce::everybody_counts() const {
  if (way_ != Way::cheaper) return way_ == Way::everybody_counts;
  // Bits that all ranks send together for a value, divided by ranks - 1.
  return codec_.ranks() * codec_.codec().bits <= codec_.codec().bits + codec_.count_bits();
}

void CorrelatedAllReduce::gather_codes(Communicator& communicator, const std::vector<Part>& parts) {
  const int ranks = communicator.size(), rank = communicator.rank();
  std::vector<Segment> segments;
  for (const Part& part : parts) segments.insert(segments.end(), part.segments.begin(), part.segments.end());
  codes_.resize(window);
  size_t started = 0;
  for (size_t finished = 0; finished < segments.size(); ++finished) {
    for (; started < std::min(segments.size(), finished + window); ++started) {
      Messages& messages = codes_[started % window];
      messages.resize(static_cast<size_t>(ranks));
      encode(segments[started], rank, messages[static_cast<size_t>(rank)]);
      std::vector<Communicator::Send> sends;
      std::vector<Communicator::Receive> receives;
      for (int distance = 1; distance < ranks; ++distance) {
        const int to = (rank + distance) % ranks, from = (rank + ranks - distance) % ranks;
        messages[static_cast<size_t>(from)].resize(code_bytes(segments[started]));
        sends.push_back({to, messages[static_cast<size_t>(rank)]});
        receives.push_back({from, messages[static_cast<size_t>(from)]});
      }
      communicator.start(sends, receives);
    }
    communicator.finish();
    count(segments[finished], codes_[finished % window]);
    decode(segments[finished]);
  }
}

// In step s the codes of segment s leave, those of s - 1 are counted and their counts leave, and the counts of s - 2
// are taken: transfers end in the order in which they began.
void CorrelatedAllReduce::count_as_owner(Communicator& communicator, const std::vector<Part>& parts, SumGoes goes) {
  const int rank = communicator.rank();
  const std::vector<Segment>& own = parts[static_cast<size_t>(rank)].segments;
  size_t segments = 0;
  for (const Part& part : parts) segments = std::max(segments, part.segments.size());
  for (std::vector<Messages>* messages : {&codes_, &outgoing_, &count_messages_})
    messages->assign(turns, Messages(parts.size()));
  for (size_t step = 0; step < segments + turns; ++step) {
    if (step < segments) start_codes(communicator, parts, step);
    if (step >= 1 && step <= segments) {
      for (int distance = 1; distance < communicator.size(); ++distance) communicator.finish();
      if (step - 1 < own.size()) count(own[step - 1], codes_[(step - 1) % turns]);
      if (goes == SumGoes::to_all) start_counts(communicator, parts, step - 1);
      if (step - 1 < own.size()) decode(own[step - 1]);
    }
    if (step >= turns && goes == SumGoes::to_all) {
      communicator.finish();
      take_counts(parts, rank, step - turns);
    }
  }
}

void CorrelatedAllReduce::start_codes(Communicator& communicator, const std::vector<Part>& parts, size_t segment) {
  const int ranks = communicator.size(), rank = communicator.rank();
  const std::vector<Segment>& own = parts[static_cast<size_t>(rank)].segments;
  Messages &incoming = codes_[segment % turns], &outgoing = outgoing_[segment % turns];
  // A part is encoded while those before it travel.
  for (int distance = 1; distance < ranks; ++distance) {
    const auto to = static_cast<size_t>((rank + distance) % ranks),
               from = static_cast<size_t>((rank + ranks - distance) % ranks);
    const std::vector<Segment>& theirs = parts[to].segments;
    outgoing[to].clear();
    incoming[from].resize(segment < own.size() ? code_bytes(own[segment]) : 0);
    if (segment < theirs.size()) encode(theirs[segment], rank, outgoing[to]);
    const Communicator::Send send{static_cast<int>(to), outgoing[to]};
    const Communicator::Receive receive{static_cast<int>(from), incoming[from]};
    communicator.start({&send, 1}, {&receive, 1});
  }
  if (segment < own.size()) encode(own[segment], rank, incoming[static_cast<size_t>(rank)]);
}

void CorrelatedAllReduce::start_counts(Communicator& communicator, const std::vector<Part>& parts, size_t segment) {
  const int rank = communicator.rank();
  Messages& messages = count_messages_[segment % turns];
  std::vector<Communicator::Send> sends;
  std::vector<Communicator::Receive> receives;
  for (size_t r = 0; r < parts.size(); ++r)
    messages[r].resize(segment < parts[r].segments.size() ? count_bytes(parts[r].segments[segment]) : 0);
  std::vector<std::byte>& own = messages[static_cast<size_t>(rank)];
  if (!own.empty()) {
    const Segment& counted = parts[static_cast<size_t>(rank)].segments[segment];
    pack_bits(std::span<const uint16_t>(counts_).first(counted.prepared.size()), codec_.count_bits(),
              codes_in(std::span(own)));
    seal_codes(own, terms_of(counted, rank).of_sum());
  }
  for (int r = 0; r < communicator.size(); ++r) {
    if (r == rank) continue;
    sends.push_back({r, own});
    receives.push_back({r, messages[static_cast<size_t>(r)]});
  }
  communicator.start(sends, receives);
}

void CorrelatedAllReduce::take_counts(const std::vector<Part>& parts, int rank, size_t segment) {
  for (int owner = 0; owner < codec_.ranks(); ++owner) {
    const Part& part = parts[static_cast<size_t>(owner)];
    if (owner == rank || segment >= part.segments.size()) continue;
    const Segment& counted = part.segments[segment];
    const std::span<const std::byte> message = count_messages_[segment % turns][static_cast<size_t>(owner)];
    const CodeTerms terms = terms_of(counted, owner).of_sum();
    counts_.resize(std::max(counts_.size(), counted.prepared.size()));
    (void)open_codes(message, terms);
    if (!unpack_bits(codes_in(message), codec_.count_bits(), std::span(counts_).first(counted.prepared.size())))
      refuse_message(terms.source, "bits behind the last sum of codes", "zeros");
    decode(counted);
  }
}

size_t CorrelatedAllReduce::code_bytes(const Segment& segment) const {
  return code_message_bytes(packed_bytes(std::ssize(segment.prepared), codec_.codec().bits));
}

size_t CorrelatedAllReduce::count_bytes(const Segment& segment) const {
  return code_message_bytes(packed_bytes(std::ssize(segment.prepared), codec_.count_bits()));
}

CodeTerms CorrelatedAllReduce::terms_of(const Segment& segment, int from) const {
  return {.codec = codec_.codec(),
          .source = segment.source.of_rank(from),
          .ranks = codec_.ranks(),
          .length = segment.values,
          .agreed = agreed_};
}

void CorrelatedAllReduce::encode(const Segment& segment, int rank, std::vector<std::byte>& message) {
  message.resize(code_bytes(segment));
  codec_.encode(segment.prepared, segment.ranges, segment.source, order_[static_cast<size_t>(rank)],
                codes_in(std::span(message)));
  seal_codes(message, terms_of(segment, rank));
}

void CorrelatedAllReduce::count(const Segment& segment, const Messages& messages) {
  for (int from = 0; from < codec_.ranks(); ++from)
    (void)open_codes(messages[static_cast<size_t>(from)], terms_of(segment, from));
  counts_.resize(std::max(counts_.size(), segment.prepared.size()));
  const std::span<uint16_t> counts = std::span(counts_).first(segment.prepared.size());
  std::ranges::fill(counts, uint16_t{0});
  const auto bucket = static_cast<size_t>(codec_.codec().bucket);
  for (size_t first = 0; first < counts.size(); first += bucket) {  // all ranks' while the counts are in the cache
    const std::span<uint16_t> here = counts.subspan(first, std::min(bucket, counts.size() - first));
    const size_t begin = packed_bytes(static_cast<int64_t>(first), codec_.codec().bits),
                 bytes = packed_bytes(std::ssize(here), codec_.codec().bits);
    for (int from = 0; from < codec_.ranks(); ++from)
      codec_.count(codes_in(std::span<const std::byte>(messages[static_cast<size_t>(from)])).subspan(begin, bytes),
                   segment.source.of_rank(from).from_bucket(static_cast<int64_t>(first / bucket)), here);
  }
}

void CorrelatedAllReduce::decode(const Segment& segment) {
  codec_.decode(counts_, segment.ranges, segment.source, segment.prepared.first(static_cast<size_t>(segment.values)));
}

}  // namespace nibble
