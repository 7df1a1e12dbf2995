#include "comm/sparse_allreduce.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

#include "comm/stream_exchange.hpp"

namespace nibble {
namespace {

/// One stream to a rank and one back.
SparseStream swap_streams(Communicator& communicator, int peer, const SparseStream& mine, Wire values, uint64_t label) {
  const OutgoingStream out{peer, &mine};
  const IncomingStream in{peer, mine.length()};
  return std::move(exchange_streams(communicator, {&out, 1}, {&in, 1}, values, label).front());
}

void send_stream(Communicator& communicator, int to, const SparseStream& stream, Wire values, uint64_t label) {
  const OutgoingStream out{to, &stream};
  exchange_streams(communicator, {&out, 1}, {}, values, label);
}

SparseStream receive_stream(Communicator& communicator, int from, int64_t length, Wire values, uint64_t label) {
  const IncomingStream in{from, length};
  return std::move(exchange_streams(communicator, {}, {&in, 1}, values, label).front());
}

// The ranks 0, 1, ... 2 spare - 1 become `spare` pairs, of which the odd ones go on; then there is a power of two.
SparseStream double_recursively(Communicator& communicator, SparseStream mine, const SparseAllreduce& how) {
  const int ranks = communicator.size(), rank = communicator.rank();
  const int doubling = static_cast<int>(std::bit_floor(static_cast<unsigned>(ranks))), spare = ranks - doubling;
  SparseStream total = as_received(std::move(mine), how.contributions);
  if (rank < 2 * spare && rank % 2 == 0) {
    send_stream(communicator, rank + 1, total, how.contributions, how.label);
    return receive_stream(communicator, rank + 1, total.length(), Wire::f32, how.label);
  }
  if (rank < 2 * spare)
    total = sum(receive_stream(communicator, rank - 1, total.length(), how.contributions, how.label), total);
  const int place = rank < 2 * spare ? rank / 2 : rank - spare;
  for (int distance = 1; distance < doubling; distance *= 2) {
    const int other = place ^ distance, peer = other < spare ? 2 * other + 1 : other + spare;
    total = as_received(std::move(total), how.contributions);
    const SparseStream theirs = swap_streams(communicator, peer, total, how.contributions, how.label);
    total = place < other ? sum(total, theirs) : sum(theirs, total);
  }
  // What travels now is not rounded again: the one who has it could not round its own copy before it is the result.
  if (rank < 2 * spare) send_stream(communicator, rank - 1, total, Wire::f32, how.label);
  return total;
}

int64_t block_of(const SparseAllreduce& how) {
  return how.algorithm == SparseAlgorithm::dense_split && how.codec ? how.codec->block_elements() : bucket_elements;
}

/// Where the parts begin, and the vector's end.
std::vector<int64_t> begins_of_parts(int64_t length, int ranks, const SparseAllreduce& how) {
  std::vector<int64_t> begins;
  for (int rank = 0; rank <= ranks; ++rank) begins.push_back(part_begin(length, ranks, rank, block_of(how)));
  return begins;
}

struct PartRange {
  int64_t first, count;
};

PartRange part_of_rank(std::span<const int64_t> begins, int rank) {
  const auto r = static_cast<size_t>(rank);
  return {begins[r], begins[r + 1] - begins[r]};
}

/// What every rank contributes to this rank's part, in the order of the ranks.
std::vector<SparseStream> contributions_to_own_part(Communicator& communicator, const SparseStream& mine,
                                                    std::span<const int64_t> begins, Wire wire, uint64_t label) {
  const int ranks = communicator.size(), rank = communicator.rank();
  const auto part = [&](int r) {
    const PartRange range = part_of_rank(begins, r);
    return part_of(mine, range.first, range.count);
  };
  const int64_t own_length = part_of_rank(begins, rank).count;
  std::vector<SparseStream> parts;
  std::vector<OutgoingStream> outgoing;
  std::vector<IncomingStream> incoming;
  // Each begins with another, so that not all send to the same.
  for (int round = 1; round < ranks; ++round) parts.push_back(part((rank + round) % ranks));
  for (int round = 1; round < ranks; ++round) {
    outgoing.push_back({(rank + round) % ranks, &parts[static_cast<size_t>(round - 1)]});
    incoming.push_back({(rank + ranks - round) % ranks, own_length});
  }
  std::vector<SparseStream> arrived = exchange_streams(communicator, outgoing, incoming, wire, label);
  std::vector<SparseStream> in_order(static_cast<size_t>(ranks));
  for (size_t i = 0; i < arrived.size(); ++i) in_order[static_cast<size_t>(incoming[i].from)] = std::move(arrived[i]);
  in_order[static_cast<size_t>(rank)] = as_received(part(rank), wire);
  return in_order;
}

SparseStream sum_in_parts(Communicator& communicator, const SparseStream& mine, const SparseAllreduce& how) {
  const std::vector<int64_t> begins = begins_of_parts(mine.length(), communicator.size(), how);
  const SparseStream total = sparse_reduce_scatter(communicator, mine, begins, how.contributions, how.label);
  std::vector<int64_t> lengths;
  for (int r = 0; r < communicator.size(); ++r) lengths.push_back(part_of_rank(begins, r).count);
  return concatenate(gather_streams(communicator, total, lengths, how.sums, how.label));
}

/// The parts' sums, each where it belongs in `all`, go through the codec: the own one too.
void gather_coded(Communicator& communicator, std::span<float> all, std::span<const int64_t> begins,
                  const SparseAllreduce& how) {
  const int ranks = communicator.size();
  std::vector<std::vector<std::byte>> coded(static_cast<size_t>(ranks));
  Parts parts;
  for (int r = 0; r < ranks; ++r) {
    coded[static_cast<size_t>(r)].resize(how.codec->bytes(part_of_rank(begins, r).count));
    parts.push_back({coded[static_cast<size_t>(r)]});
  }
  const auto values = [&](int r) {
    const PartRange range = part_of_rank(begins, r);
    return all.subspan(static_cast<size_t>(range.first), static_cast<size_t>(range.count));
  };
  const auto first = [&](int r) { return part_of_rank(begins, r).first; };
  const int rank = communicator.rank();
  how.codec->encode(values(rank), first(rank), coded[static_cast<size_t>(rank)]);
  all_gather(communicator, parts);
  for (int r = 0; r < ranks; ++r) how.codec->decode(coded[static_cast<size_t>(r)], first(r), values(r));
}

void sum_in_dense_parts(Communicator& communicator, const SparseStream& mine, const SparseAllreduce& how,
                        std::span<float> all) {
  const int ranks = communicator.size();
  const std::vector<int64_t> begins = begins_of_parts(mine.length(), ranks, how);
  Parts parts;
  for (int r = 0; r < ranks; ++r) {
    const PartRange range = part_of_rank(begins, r);
    parts.push_back(
        {std::as_writable_bytes(all.subspan(static_cast<size_t>(range.first), static_cast<size_t>(range.count)))});
  }
  const PartRange own = part_of_rank(begins, communicator.rank());
  const std::span<float> total = all.subspan(static_cast<size_t>(own.first), static_cast<size_t>(own.count));
  bool first = true;
  for (const SparseStream& contribution :
       contributions_to_own_part(communicator, mine, begins, how.contributions, how.label)) {
    if (first) contribution.write(total);
    else contribution.add_to(total);
    first = false;
  }
  if (how.codec) gather_coded(communicator, all, begins, how);
  else all_gather(communicator, parts, how.sums);
}

/// Dense once that is not longer.
SparseStream in_shorter_form(SparseStream stream) {
  check_indexable(stream.length());
  if (stream.count() >= dense_switch(stream.length())) stream.make_dense();
  return stream;
}

}  // namespace

std::string_view name(SparseAlgorithm algorithm) {
  switch (algorithm) {
    case SparseAlgorithm::recursive_doubling:
      return "recursive doubling";
    case SparseAlgorithm::split:
      return "split";
    case SparseAlgorithm::dense_split:
      return "dense split";
  }
  return "?";
}

int64_t part_begin(int64_t length, int ranks, int rank, int64_t block_elements) {
  const int64_t blocks = (length + block_elements - 1) / block_elements;
  return std::min(blocks * rank / ranks * block_elements, length);
}

SparseStream sparse_reduce_scatter(Communicator& communicator, const SparseStream& mine,
                                   std::span<const int64_t> begins, Wire contributions, uint64_t label) {
  const std::vector<SparseStream> own = contributions_to_own_part(communicator, mine, begins, contributions, label);
  SparseStream total = own.front();
  for (size_t r = 1; r < own.size(); ++r) total = sum(total, own[r]);
  return total;
}

SparseStream sparse_allreduce(Communicator& communicator, SparseStream mine, const SparseAllreduce& how) {
  mine = in_shorter_form(std::move(mine));
  switch (how.algorithm) {
    case SparseAlgorithm::recursive_doubling:
      return double_recursively(communicator, std::move(mine), how);
    case SparseAlgorithm::split:
      return sum_in_parts(communicator, mine, how);
    case SparseAlgorithm::dense_split:
      break;
  }
  std::vector<float> all(static_cast<size_t>(mine.length()));
  sum_in_dense_parts(communicator, mine, how, all);
  return SparseStream(std::move(all));
}

void sparse_allreduce(Communicator& communicator, SparseStream mine, const SparseAllreduce& how, std::span<float> all) {
  assert(std::ssize(all) == mine.length());
  if (how.algorithm == SparseAlgorithm::dense_split)
    sum_in_dense_parts(communicator, in_shorter_form(std::move(mine)), how, all);
  else sparse_allreduce(communicator, std::move(mine), how).write(all);
}

}  // namespace nibble
