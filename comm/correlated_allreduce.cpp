#include "comm/correlated_allreduce.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "comm/bit_packing.hpp"
#include "comm/bucket_codec.hpp"
#include "comm/code_error.hpp"
#include "comm/max_all_reduce.hpp"
#include "comm/packed_parts.hpp"

namespace nibble {

std::vector<CorrelatedAllReduce::Part> CorrelatedAllReduce::plan(const Parts& parts) const {
  std::vector<Part> all;
  int64_t bucket = 0;
  for (const Pieces& pieces : parts) {
    Part part{.values = values_of(pieces), .first_bucket = bucket};
    part.codes = codec_.codec().padded(part.values);
    part.buckets = codec_.codec().buckets_of(part.values);
    part.code_bytes = packed_bytes(part.codes, codec_.codec().bits);
    part.count_bytes = packed_bytes(part.codes, codec_.count_bits());
    bucket += part.buckets;
    all.push_back(part);
  }
  return all;
}

std::span<const float> CorrelatedAllReduce::prepared(const Pieces& pieces, const Part& part, const CodeSource& source,
                                                     std::vector<float>& copy) {
  if (codec_.codec().rotation == Codec::Rotation::none) return gathered(pieces, copy);
  copy.resize(static_cast<size_t>(part.codes));
  codec_.prepare(gathered(pieces, values_), source, copy);
  return copy;
}

bool CorrelatedAllReduce::everybody_counts(const std::vector<Part>& plan, SumGoes goes) const {
  if (goes == SumGoes::to_owner) return false;
  if (way_ != Way::cheaper) return way_ == Way::everybody_counts;
  size_t codes = 0, counts = 0;
  for (const Part& part : plan) {
    codes += part.code_bytes;
    counts += part.count_bytes;
  }
  // What all ranks send together, divided by ranks - 1.
  return static_cast<size_t>(codec_.ranks()) * codes <= codes + counts;
}

bool CorrelatedAllReduce::all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                     SumGoes goes) {
  assert(communicator.size() == codec_.ranks() && parts.size() == static_cast<size_t>(codec_.ranks()));
  const std::vector<Part> all = plan(parts);
  const auto rank = static_cast<size_t>(communicator.rank());
  prepared_.resize(parts.size());
  copies_.resize(parts.size());
  ranges_.resize(parts.size());
  counts_.resize(parts.size());
  outgoing_.resize(parts.size());
  incoming_.resize(parts.size());
  bool finite = true;
  std::vector<float> ranges;
  for (size_t r = 0; r < parts.size(); ++r) {
    prepared_[r] = prepared(parts[r], all[r], source.from_bucket(all[r].first_bucket), copies_[r]);
    ranges_[r].resize(static_cast<size_t>(all[r].buckets));
    codec_.ranges(prepared_[r], ranges_[r]);
    ranges.insert(ranges.end(), ranges_[r].begin(), ranges_[r].end());
  }
  if (codec_.ranks() > 1) max_all_reduce(communicator, ranges);
  for (const float range : ranges) finite = finite && std::isfinite(range);
  if (codec_.ranks() == 1) return finite;
  const auto goes_here = [&](size_t r) { return goes == SumGoes::to_all || r == rank; };
  if (!finite) {
    for (size_t r = 0; r < parts.size(); ++r)
      if (goes_here(r)) fill_with_nan(parts[r]);
    return false;
  }

  for (size_t r = 0; r < parts.size(); ++r) {
    const auto first = ranges.begin() + all[r].first_bucket;
    ranges_[r].assign(first, first + all[r].buckets);
    counts_[r].assign(static_cast<size_t>(goes_here(r) ? all[r].codes : 0), 0);
  }
  order_ = order_of_ranks(source, codec_.ranks());
  if (everybody_counts(all, goes)) {
    gather_codes(communicator, all, source);
  } else {
    count_as_owner(communicator, all, source);
    if (goes == SumGoes::to_all) gather_counts(communicator, all, source);
  }
  for (size_t r = 0; r < parts.size(); ++r) {
    if (!goes_here(r)) continue;
    values_.resize(std::max(values_.size(), static_cast<size_t>(all[r].values)));
    const std::span<float> sum(values_.data(), static_cast<size_t>(all[r].values));
    codec_.decode(counts_[r], ranges_[r], source.from_bucket(all[r].first_bucket), sum);
    scattered(sum, parts[r]);
  }
  return true;
}

void CorrelatedAllReduce::encode(const std::vector<Part>& plan, size_t part, const CodeSource& source,
                                 std::span<std::byte> codes) {
  codec_.encode(prepared_[part], ranges_[part], source.from_bucket(plan[part].first_bucket),
                order_[static_cast<size_t>(source.rank)], codes);
}

void CorrelatedAllReduce::gather_codes(Communicator& communicator, const std::vector<Part>& plan,
                                       const CodeSource& source) {
  const auto rank = static_cast<size_t>(communicator.rank());
  size_t bytes = 0;
  for (const Part& part : plan) bytes += part.code_bytes;
  Parts messages;
  for (std::vector<std::byte>& message : incoming_) {
    message.resize(bytes);
    messages.push_back({std::span(message)});
  }
  const auto for_each_part = [&](auto&& run) {
    size_t at = 0;
    for (size_t r = 0; r < plan.size(); at += plan[r].code_bytes, ++r) run(r, at);
  };
  for_each_part([&](size_t r, size_t at) {
    encode(plan, r, source, std::span(incoming_[rank]).subspan(at, plan[r].code_bytes));
  });
  all_gather(communicator, messages);
  for (size_t from = 0; from < incoming_.size(); ++from)
    for_each_part([&](size_t r, size_t at) {
      codec_.count(std::span(incoming_[from]).subspan(at, plan[r].code_bytes),
                   source.of_rank(static_cast<int>(from)).from_bucket(plan[r].first_bucket), counts_[r]);
    });
}

void CorrelatedAllReduce::count_as_owner(Communicator& communicator, const std::vector<Part>& plan,
                                         const CodeSource& source) {
  const int ranks = communicator.size();
  const auto rank = static_cast<size_t>(communicator.rank());
  const auto rank_at = [&](int distance) {
    return static_cast<size_t>((communicator.rank() + distance + ranks) % ranks);
  };
  // A part is encoded while those before it travel.
  for (int distance = 1; distance < ranks; ++distance) {
    const size_t to = rank_at(distance), from = rank_at(-distance);
    outgoing_[to].resize(plan[to].code_bytes);
    encode(plan, to, source, outgoing_[to]);
    incoming_[from].resize(plan[rank].code_bytes);
    const Communicator::Send send{static_cast<int>(to), outgoing_[to]};
    const Communicator::Receive receive{static_cast<int>(from), incoming_[from]};
    communicator.start({&send, 1}, {&receive, 1});
  }
  incoming_[rank].resize(plan[rank].code_bytes);
  encode(plan, rank, source, incoming_[rank]);
  for (int distance = 1; distance < ranks; ++distance) communicator.finish();
  for (size_t from = 0; from < incoming_.size(); ++from)
    codec_.count(incoming_[from], source.of_rank(static_cast<int>(from)).from_bucket(plan[rank].first_bucket),
                 counts_[rank]);
}

void CorrelatedAllReduce::gather_counts(Communicator& communicator, const std::vector<Part>& plan,
                                        const CodeSource& source) {
  const auto rank = static_cast<size_t>(communicator.rank());
  Parts messages;
  for (size_t r = 0; r < incoming_.size(); ++r) {
    incoming_[r].resize(plan[r].count_bytes);
    messages.push_back({std::span(incoming_[r])});
  }
  pack_bits(std::span<const uint16_t>(counts_[rank]), codec_.count_bits(), incoming_[rank]);
  all_gather(communicator, messages);
  for (size_t r = 0; r < incoming_.size(); ++r)
    if (r != rank && !unpack_bits(incoming_[r], codec_.count_bits(), counts_[r]))
      refuse_message(source.of_rank(static_cast<int>(r)), "bits behind the last sum of codes", "zeros");
}

}  // namespace nibble
