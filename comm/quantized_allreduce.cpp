#include "comm/quantized_allreduce.hpp"

#include <algorithm>
#include <limits>

#include "comm/code_message.hpp"
#include "comm/packed_parts.hpp"

namespace nibble {
namespace {

/// Of each part, the number of its first bucket.
std::vector<int64_t> first_buckets(const Codec& codec, const Parts& parts) {
  std::vector<int64_t> first{0};
  for (const Pieces& pieces : parts) first.push_back(first.back() + codec.buckets_of(values_of(pieces)));
  return first;
}

/// Rank `rank` + distance around the ring.
size_t rank_at(const Communicator& communicator, int distance) {
  return static_cast<size_t>((communicator.rank() + distance + communicator.size()) % communicator.size());
}

}  // namespace

bool QuantizedAllReduce::all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                    SumGoes goes) {
  const int ranks = communicator.size();
  if (ranks == 1) return can_encode(parts);
  outgoing_.resize(static_cast<size_t>(ranks));
  incoming_.resize(static_cast<size_t>(ranks));
  bool everybodys = false;
  if (goes == SumGoes::to_all && ranks == 2) {
    everybodys = gather_contributions(communicator, parts, source);
  } else {
    everybodys = scatter_contributions(communicator, parts, source, can_encode(parts));
    if (goes == SumGoes::to_all) everybodys = gather_sums(communicator, parts, source.of_sum(), everybodys);
  }
  if (!everybodys)
    for (size_t r = 0; r < parts.size(); ++r)
      if (goes == SumGoes::to_all || r == static_cast<size_t>(communicator.rank())) fill_with_nan(parts[r]);
  return everybodys;
}

bool QuantizedAllReduce::can_encode(const Parts& parts) const {
  return std::ranges::all_of(parts, [&](const Pieces& pieces) {
    return std::ranges::all_of(pieces, [&](std::span<std::byte> piece) {
      return codec_.can_encode({reinterpret_cast<const float*>(piece.data()), piece.size() / sizeof(float)});
    });
  });
}

void QuantizedAllReduce::contribution(const Parts& parts, const CodeSource& source, std::span<float> own) {
  if (!can_encode(parts)) {
    std::ranges::fill(own, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  const Codec& row = codec_.codec();
  const std::vector<int64_t> first_bucket = first_buckets(row, parts);
  std::vector<std::byte> message;
  for (size_t r = 0; r < parts.size(); ++r) {
    const std::span<const float> values = gathered(parts[r], growing(values_));
    const CodeSource from = source.from_bucket(first_bucket[r]);
    message.assign(row.bytes_of(std::ssize(values)), std::byte{0});
    codec_.encode(values, from, message);
    codec_.decode(message, from, own.first(values.size()));
    own = own.subspan(values.size());
  }
}

bool QuantizedAllReduce::gather_contributions(Communicator& communicator, const Parts& parts,
                                              const CodeSource& source) {
  const Codec& row = codec_.codec();
  const std::vector<int64_t> first_bucket = first_buckets(row, parts);
  size_t bytes = message_header_bytes;
  int64_t values = 0;
  for (const Pieces& pieces : parts) {
    bytes += row.bytes_of(values_of(pieces));
    values += values_of(pieces);
  }
  std::vector<std::byte>& own = outgoing_[rank_at(communicator, 0)];
  std::vector<std::byte>& other = incoming_[rank_at(communicator, 1)];
  own.assign(bytes, std::byte{0});
  other.resize(bytes);
  const auto for_each_part = [&](auto&& run) {
    size_t at = message_header_bytes;
    for (size_t r = 0; r < parts.size(); ++r) {
      const size_t here = row.bytes_of(values_of(parts[r]));
      run(parts[r], source.from_bucket(first_bucket[r]), at, here);
      at += here;
    }
  };
  bool encodable = true;
  for_each_part([&](const Pieces& pieces, const CodeSource& from, size_t at, size_t here) {
    encodable =
        encodable && codec_.try_encode(gathered(pieces, growing(values_)), from, std::span(own).subspan(at, here));
  });
  seal_codes(own, {row, source, communicator.size(), values}, encodable);
  const int other_rank = static_cast<int>(rank_at(communicator, 1));
  const Communicator::Send send{other_rank, own};
  const Communicator::Receive receive{other_rank, other};
  communicator.transfer({&send, 1}, {&receive, 1});
  if (!open_codes(other, {row, source.of_rank(other_rank), communicator.size(), values}) || !encodable) return false;

  for_each_part([&](const Pieces& pieces, const CodeSource& from, size_t at, size_t here) {
    const std::span<float> sum = run_for(pieces, growing(values_));
    const bool first = communicator.rank() == 0;
    codec_.decode(std::span(first ? own : other).subspan(at, here), from.of_rank(0), sum);
    codec_.decode_and_add(std::span(first ? other : own).subspan(at, here), from.of_rank(1), sum);
    scattered(sum, pieces);
  });
  return true;
}

bool QuantizedAllReduce::scatter_contributions(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                               bool encodable) {
  const Codec& row = codec_.codec();
  const std::vector<int64_t> first_bucket = first_buckets(row, parts);
  const size_t rank = rank_at(communicator, 0);
  const size_t own_bytes = code_message_bytes(row.bytes_of(values_of(parts[rank])));
  const auto terms_of = [&](size_t part, size_t from) {
    return CodeTerms{row, source.of_rank(static_cast<int>(from)).from_bucket(first_bucket[part]), communicator.size(),
                     values_of(parts[part])};
  };
  const auto encode_part = [&](size_t r) {
    outgoing_[r].resize(code_message_bytes(row.bytes_of(values_of(parts[r]))));
    const CodeTerms terms = terms_of(r, rank);
    if (encodable) codec_.encode(gathered(parts[r], growing(values_)), terms.source, codes_in(std::span(outgoing_[r])));
    seal_codes(outgoing_[r], terms, encodable);
  };
  // A part is encoded while those before it travel.
  for (int distance = 1; distance < communicator.size(); ++distance) {
    const size_t to = rank_at(communicator, distance), from = rank_at(communicator, -distance);
    encode_part(to);
    incoming_[from].resize(own_bytes);
    const Communicator::Send send{static_cast<int>(to), outgoing_[to]};
    const Communicator::Receive receive{static_cast<int>(from), incoming_[from]};
    communicator.start({&send, 1}, {&receive, 1});
  }
  encode_part(rank);
  incoming_[rank] = outgoing_[rank];
  for (int distance = 1; distance < communicator.size(); ++distance) communicator.finish();

  bool everybodys = true;
  for (size_t r = 0; r < incoming_.size(); ++r) everybodys = open_codes(incoming_[r], terms_of(rank, r)) && everybodys;
  if (!everybodys) return false;
  const std::span<float> sum = run_for(parts[rank], growing(sum_));
  for (size_t r = 0; r < incoming_.size(); ++r) {
    const CodeSource from = terms_of(rank, r).source;
    const std::span<const std::byte> codes = codes_in(std::span<const std::byte>(incoming_[r]));
    if (r == 0) codec_.decode(codes, from, sum);
    else codec_.decode_and_add(codes, from, sum);
  }
  scattered(sum, parts[rank]);
  return true;
}

bool QuantizedAllReduce::gather_sums(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                     bool encodable_so_far) {
  const Codec& row = codec_.codec();
  const std::vector<int64_t> first_bucket = first_buckets(row, parts);
  const size_t rank = rank_at(communicator, 0);
  const auto terms_of = [&](size_t r) {
    return CodeTerms{row, source.of_rank(static_cast<int>(r)).from_bucket(first_bucket[r]), communicator.size(),
                     values_of(parts[r])};
  };
  Parts messages;
  for (size_t r = 0; r < parts.size(); ++r) {
    incoming_[r].resize(code_message_bytes(row.bytes_of(values_of(parts[r]))));
    messages.push_back({std::span(incoming_[r])});
  }
  const CodeTerms own = terms_of(rank);
  const bool encodable = encodable_so_far && codec_.try_encode(gathered(parts[rank], growing(sum_)), own.source,
                                                               codes_in(std::span(incoming_[rank])));
  seal_codes(incoming_[rank], own, encodable);
  all_gather(communicator, messages);

  bool everybodys = true;
  for (size_t r = 0; r < parts.size(); ++r) everybodys = open_codes(incoming_[r], terms_of(r)) && everybodys;
  if (!everybodys) return false;
  for (size_t r = 0; r < parts.size(); ++r) {
    const std::span<float> values = run_for(parts[r], growing(values_));
    codec_.decode(codes_in(std::span<const std::byte>(incoming_[r])), terms_of(r).source, values);
    scattered(values, parts[r]);
  }
  return true;
}

}  // namespace nibble
