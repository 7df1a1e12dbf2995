#include "comm/quantized_allreduce.hpp"

#include <algorithm>
#include <limits>

#include "comm/code_error.hpp"
#include "comm/packed_parts.hpp"

namespace nibble {
namespace {

/// A message is one byte that says whether there are codes, and the codes.
enum class Status : uint8_t { codes = 0, none = 1 };
constexpr size_t status_bytes = 1;

void set_status(std::vector<std::byte>& message, bool encodable) {
  message[0] = static_cast<std::byte>(encodable ? Status::codes : Status::none);
}
bool has_codes(std::span<const std::byte> message, const CodeSource& source) {
  const auto status = static_cast<Status>(message[0]);
  if (status != Status::codes && status != Status::none)
    refuse_message(source, fmt::format("status {}", static_cast<int>(status)), "0 or 1");
  return status == Status::codes;
}

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
    const std::span<const float> values = gathered(parts[r], values_);
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
  size_t bytes = status_bytes;
  for (const Pieces& pieces : parts) bytes += row.bytes_of(values_of(pieces));
  std::vector<std::byte>& own = outgoing_[rank_at(communicator, 0)];
  std::vector<std::byte>& other = incoming_[rank_at(communicator, 1)];
  own.assign(bytes, std::byte{0});
  other.resize(bytes);
  const auto for_each_part = [&](auto&& run) {
    size_t at = status_bytes;
    for (size_t r = 0; r < parts.size(); ++r) {
      const size_t here = row.bytes_of(values_of(parts[r]));
      run(parts[r], source.from_bucket(first_bucket[r]), at, here);
      at += here;
    }
  };
  bool encodable = true;
  for_each_part([&](const Pieces& pieces, const CodeSource& from, size_t at, size_t here) {
    encodable = encodable && codec_.try_encode(gathered(pieces, values_), from, std::span(own).subspan(at, here));
  });
  set_status(own, encodable);
  const int other_rank = static_cast<int>(rank_at(communicator, 1));
  const Communicator::Send send{other_rank, own};
  const Communicator::Receive receive{other_rank, other};
  communicator.transfer({&send, 1}, {&receive, 1});
  if (!has_codes(other, source.of_rank(other_rank)) || !encodable) return false;

  for_each_part([&](const Pieces& pieces, const CodeSource& from, size_t at, size_t here) {
    const std::span<float> sum = gathered(pieces, values_);
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
  const size_t own_bytes = status_bytes + row.bytes_of(values_of(parts[rank]));
  const auto encode_part = [&](size_t r) {
    outgoing_[r].assign(status_bytes + row.bytes_of(values_of(parts[r])), std::byte{0});
    set_status(outgoing_[r], encodable);
    if (encodable)
      codec_.encode(gathered(parts[r], values_), source.from_bucket(first_bucket[r]),
                    std::span(outgoing_[r]).subspan(status_bytes));
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
  for (size_t r = 0; r < incoming_.size(); ++r)
    everybodys = has_codes(incoming_[r], source.of_rank(static_cast<int>(r))) && everybodys;
  if (!everybodys) return false;
  const std::span<float> sum = gathered(parts[rank], sum_);
  for (size_t r = 0; r < incoming_.size(); ++r) {
    const CodeSource from = source.of_rank(static_cast<int>(r)).from_bucket(first_bucket[rank]);
    const std::span<const std::byte> codes = std::span(incoming_[r]).subspan(status_bytes);
    if (r == 0) codec_.decode(codes, from, sum);
    else codec_.decode_and_add(codes, from, sum);
  }
  scattered(sum, parts[rank]);
  return true;
}

bool QuantizedAllReduce::all_gather(Communicator& communicator, const Parts& parts, const CodeSource& source) {
  outgoing_.resize(static_cast<size_t>(communicator.size()));
  incoming_.resize(static_cast<size_t>(communicator.size()));
  const bool everybodys = gather_sums(communicator, parts, source.of_sum(), true);
  if (!everybodys) std::ranges::for_each(parts, fill_with_nan);
  return everybodys;
}

bool QuantizedAllReduce::gather_sums(Communicator& communicator, const Parts& parts, const CodeSource& source,
                                     bool encodable_so_far) {
  const Codec& row = codec_.codec();
  const std::vector<int64_t> first_bucket = first_buckets(row, parts);
  const size_t rank = rank_at(communicator, 0);
  Parts messages;
  for (size_t r = 0; r < parts.size(); ++r) {
    incoming_[r].assign(status_bytes + row.bytes_of(values_of(parts[r])), std::byte{0});
    messages.push_back({std::span(incoming_[r])});
  }
  const std::span<float> own = gathered(parts[rank], sum_);
  const std::span<std::byte> codes = std::span(incoming_[rank]).subspan(status_bytes);
  const CodeSource from = source.from_bucket(first_bucket[rank]);
  set_status(incoming_[rank], encodable_so_far && codec_.try_encode(own, from, codes));
  nibble::all_gather(communicator, messages);

  bool everybodys = true;
  for (size_t r = 0; r < parts.size(); ++r)
    everybodys = has_codes(incoming_[r], source.of_rank(static_cast<int>(r))) && everybodys;
  if (!everybodys) return false;
  for (size_t r = 0; r < parts.size(); ++r) {
    const std::span<float> values = gathered(parts[r], values_);
    codec_.decode(std::span(incoming_[r]).subspan(status_bytes),
                  source.of_rank(static_cast<int>(r)).from_bucket(first_bucket[r]), values);
    scattered(values, parts[r]);
  }
  return true;
}

}  // namespace nibble
