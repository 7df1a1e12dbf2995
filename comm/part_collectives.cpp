// The collectives over vectors that are cut among the ranks.
#include <algorithm>
#include <cassert>

#include "comm/collectives.hpp"
#include "comm/lanes.hpp"
#include "comm/wire_work.hpp"

namespace nibble {
namespace {

/// How vectors are cut for transfers.
struct Cut {
  size_t segment;   ///< bytes that a message carries, and the unit of staging
  size_t window;    ///< transfers that are under way at a time: the link goes on while one is completed and summed
  size_t messages;  ///< that a rank sends in one transfer of scatter_to_owners
  int64_t block;    ///< elements that are summed at a time
  size_t rounded;   ///< bytes of each part that are rounded and widened at a time when gathered as bf16

  size_t block_bytes() const { return static_cast<size_t>(block) * sizeof(float); }
};

/// On the host, segments are so large that the latency of a transfer does not count, so small that what has arrived is
/// still in the cache when it is summed: blocks of eight ranks fit into a core's second-level cache. On a device each
/// transfer and each sum is the start of a kernel, some microseconds, and all links of a rank are used at once.
Cut cut_for(int ranks, Place place) {
  if (place == Place::host)
    return {.segment = size_t{1} << 19, .window = 3, .messages = 1, .block = 8192, .rounded = size_t{1} << 22};
  return {.segment = size_t{1} << 22,
          .window = 2,
          .messages = static_cast<size_t>(std::max(ranks - 1, 1)),
          .block = int64_t{1} << 20,
          .rounded = size_t{1} << 24};
}

Cut cut_for(Communicator& communicator) {
  return cut_for(communicator.size(), communicator.stream() ? Place::device : Place::host);
}

size_t longest_part(const Parts& parts) {
  size_t longest = 0;
  for (const Pieces& pieces : parts) longest = std::max(longest, bytes_of(pieces));
  return longest;
}

/// The length of the segment of a part of `bytes` that begins at `first`.
size_t length_of_segment(size_t bytes, size_t first, size_t segment) {
  return first < bytes ? std::min(segment, bytes - first) : 0;
}

float* floats(std::span<std::byte> bytes) { return reinterpret_cast<float*>(bytes.data()); }
bf16* halves(std::span<std::byte> bytes) { return reinterpret_cast<bf16*>(bytes.data()); }

/// Elements [first, first + count) of f32 pieces as they travel: where they lie if they can, else in `staging`.
std::span<std::byte> on_the_wire(const WireWork& work, const Pieces& pieces, size_t first, size_t count, Wire wire,
                                 std::span<std::byte> staging) {
  const size_t begin = first * sizeof(float), length = count * sizeof(float);
  if (wire == Wire::f32) {
    if (const std::span<std::byte> run = one_run(pieces, begin, length); run.size() == length) return run;
    work.pack(pieces, begin, staging.first(length));
    return staging.first(length);
  }
  bf16* to = halves(staging);
  for_each_run(pieces, begin, length, [&](std::span<std::byte> run) {
    const size_t elements = run.size() / sizeof(float);
    work.to_bf16(floats(run), static_cast<int64_t>(elements), to);
    to += elements;
  });
  return staging.first(count * sizeof(bf16));
}

size_t scatter_staging_bytes(const Cut& cut, size_t ranks, Wire wire) {
  const size_t units = cut.window * cut.messages + 2 * ranks;
  return units * cut.segment + (wire == Wire::bf16 ? ranks * cut.block_bytes() : 0);
}

}  // namespace

size_t collective_staging_bytes(int ranks, Place place) {
  const Cut cut = cut_for(ranks, place);
  const auto count = static_cast<size_t>(ranks);
  return std::max(2 * cut.window * cut.segment, scatter_staging_bytes(cut, count, Wire::bf16)) + count * cut.rounded;
}

void all_gather(Communicator& communicator, const Parts& parts) {
  const auto ranks = static_cast<size_t>(communicator.size()), rank = static_cast<size_t>(communicator.rank());
  assert(parts.size() == ranks);
  const auto right = static_cast<int>((rank + 1) % ranks), left = static_cast<int>((rank + ranks - 1) % ranks);
  const WireWork work(communicator);
  const Cut cut = cut_for(communicator);
  const size_t window = cut.window, segments = (longest_part(parts) + cut.segment - 1) / cut.segment;
  const std::span<std::byte> staging = communicator.staging(2 * window * cut.segment);

  /// A segment of a part, where it lies if that is one run.
  struct Segment {
    const Pieces* part;
    size_t first;
    std::span<std::byte> memory;
    bool staged;
  };
  const auto segment_of = [&](size_t owner, size_t segment, size_t slot) {
    const Pieces& part = parts[owner % ranks];
    const size_t first = segment * cut.segment;
    const size_t bytes = length_of_segment(bytes_of(part), first, cut.segment);
    const std::span<std::byte> run = one_run(part, first, bytes);
    const bool staged = run.size() != bytes;
    return Segment{&part, first, staged ? staging.subspan(slot * cut.segment, bytes) : run, staged};
  };

  // Every segment of every part but the own one arrives, and is passed on a round later.
  std::vector<Segment> arriving(window);
  size_t started = 0;
  for (size_t finished = 0; finished < (ranks - 1) * segments; ++finished) {
    for (; started < std::min((ranks - 1) * segments, finished + std::min(window, segments)); ++started) {
      const size_t round = started / segments, segment = started % segments, slot = started % window;
      const Segment passed = segment_of(rank + ranks - round, segment, 2 * slot);
      if (passed.staged) work.pack(*passed.part, passed.first, passed.memory);
      arriving[slot] = segment_of(rank + ranks - round - 1, segment, 2 * slot + 1);
      const Communicator::Send send{right, passed.memory};
      const Communicator::Receive receive{left, arriving[slot].memory};
      communicator.start({&send, 1}, {&receive, 1});
    }
    communicator.finish();
    const Segment& arrived = arriving[finished % window];
    if (arrived.staged) work.unpack(arrived.memory, *arrived.part, arrived.first);
  }
}

void all_gather(Communicator& communicator, const Parts& parts, Wire wire) {
  if (wire == Wire::f32) return all_gather(communicator, parts);
  const WireWork work(communicator);
  const size_t ranks = parts.size(), rank = static_cast<size_t>(communicator.rank());
  const size_t longest = longest_part(parts) / sizeof(float), segment = cut_for(communicator).rounded / sizeof(bf16);
  const size_t bytes_of_rank = std::min(longest, segment) * sizeof(bf16);
  const std::span<std::byte> rounded = communicator.staging(ranks * bytes_of_rank, Communicator::rounded);
  for (size_t first = 0; first < longest; first += segment) {
    Parts wired(ranks);
    for (size_t r = 0; r < ranks; ++r)
      wired[r] = {rounded.subspan(
          r * bytes_of_rank, length_of_segment(bytes_of(parts[r]) / sizeof(float), first, segment) * sizeof(bf16))};
    const std::span<std::byte> own = wired[rank].front();
    on_the_wire(work, parts[rank], first, own.size() / sizeof(bf16), Wire::bf16, own);
    all_gather(communicator, wired);
    for (size_t r = 0; r < ranks; ++r) {
      const bf16* from = halves(wired[r].front());
      for_each_run(parts[r], first * sizeof(float), wired[r].front().size() * sizeof(float) / sizeof(bf16),
                   [&](std::span<std::byte> run) {
                     work.to_f32(from, static_cast<int64_t>(run.size() / sizeof(float)), floats(run));
                     from += run.size() / sizeof(float);
                   });
    }
  }
}

namespace {

/// The staging of scatter_to_owners: while one segment of the own part is consumed, the next one arrives.
class ScatterStaging {
 public:
  ScatterStaging(Communicator& communicator, const Cut& cut, Wire wire)
      : cut_(cut),
        outgoing_(cut.window * cut.messages),
        ranks_(static_cast<size_t>(communicator.size())),
        memory_(communicator.staging(scatter_staging_bytes(cut, ranks_, wire))) {}

  std::span<std::byte> outgoing(size_t message) const { return unit(message % outgoing_); }
  std::span<std::byte> arriving(size_t segment, size_t peer) const {
    return unit(outgoing_ + segment % 2 * ranks_ + peer);
  }
  float* widened(size_t peer) const {
    const size_t begin = (outgoing_ + 2 * ranks_) * cut_.segment + peer * cut_.block_bytes();
    return floats(memory_.subspan(begin, cut_.block_bytes()));
  }

 private:
  std::span<std::byte> unit(size_t i) const { return memory_.subspan(i * cut_.segment, cut_.segment); }

  Cut cut_;
  size_t outgoing_, ranks_;
  std::span<std::byte> memory_;
};

/// Hands `count` elements of the own part, as they came from each rank, to `consume`.
void consume_segment(const WireWork& work, std::span<const std::span<std::byte>> arrived, int64_t first, int64_t count,
                     Wire wire, int64_t block, const ScatterStaging& staging, const Consume& consume) {
  std::vector<const float*> contributions(arrived.size());
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t length = std::min(block, count - begin);
    for (size_t peer = 0; peer < arrived.size(); ++peer) {
      if (wire == Wire::f32) {
        contributions[peer] = floats(arrived[peer]) + begin;
      } else {
        work.to_f32(halves(arrived[peer]) + begin, length, staging.widened(peer));
        contributions[peer] = staging.widened(peer);
      }
    }
    consume(first + begin, length, contributions);
  }
}

}  // namespace

void scatter_to_owners(Communicator& communicator, const Parts& parts, Wire wire, const Consume& consume) {
  const auto ranks = static_cast<size_t>(communicator.size()), rank = static_cast<size_t>(communicator.rank());
  assert(parts.size() == ranks);
  const WireWork work(communicator);
  const Cut cut = cut_for(communicator);
  const size_t element = wire == Wire::bf16 ? sizeof(bf16) : sizeof(float), capacity = cut.segment / element;
  const size_t longest = longest_part(parts) / sizeof(float), rounds = (ranks - 1) / cut.messages;
  const size_t segments = (longest + capacity - 1) / capacity;
  const ScatterStaging staging(communicator, cut, wire);
  const auto count_of = [&](size_t owner, size_t segment) {
    return length_of_segment(bytes_of(parts[owner]) / sizeof(float), segment * capacity, capacity);
  };

  size_t started = 0;
  std::vector<Communicator::Send> sends(cut.messages);
  std::vector<Communicator::Receive> receives(cut.messages);
  const auto start_next = [&] {
    const size_t segment = started / rounds;
    for (size_t i = 0; i < cut.messages; ++i) {
      const size_t distance = started % rounds * cut.messages + i + 1, message = started * cut.messages + i;
      const size_t to = (rank + distance) % ranks, from = (rank + ranks - distance) % ranks;
      sends[i] = {static_cast<int>(to), on_the_wire(work, parts[to], segment * capacity, count_of(to, segment), wire,
                                                    staging.outgoing(message))};
      receives[i] = {static_cast<int>(from), staging.arriving(segment, from).first(count_of(rank, segment) * element)};
    }
    communicator.start(sends, receives);
    ++started;
  };

  std::vector<std::span<std::byte>> arrived(ranks);
  for (size_t segment = 0; segment < segments; ++segment) {
    const size_t count = count_of(rank, segment);
    for (size_t finished = segment * rounds; finished < (segment + 1) * rounds; ++finished) {
      while (started < std::min({finished + cut.window, (segment + 2) * rounds, segments * rounds})) start_next();
      communicator.finish();
    }
    for (size_t peer = 0; peer < ranks; ++peer) arrived[peer] = staging.arriving(segment, peer).first(count * element);
    arrived[rank] = on_the_wire(work, parts[rank], segment * capacity, count, wire, arrived[rank]);
    consume_segment(work, arrived, static_cast<int64_t>(segment * capacity), static_cast<int64_t>(count), wire,
                    cut.block, staging, consume);
  }
}

void reduce_scatter(Communicator& communicator, const Parts& parts, Wire wire) {
  const WireWork work(communicator);
  const int64_t ranks = communicator.size();
  const std::vector<MicroBatchSum> plan = plan_lanes(ranks, ranks);
  const Pieces& own = parts[static_cast<size_t>(communicator.rank())];
  scatter_to_owners(communicator, parts, wire,
                    [&](int64_t first, int64_t count, std::span<const float* const> contributions) {
                      int64_t done = 0;
                      for_each_run(own, static_cast<size_t>(first) * sizeof(float),
                                   static_cast<size_t>(count) * sizeof(float), [&](std::span<std::byte> run) {
                                     const auto length = static_cast<int64_t>(run.size() / sizeof(float));
                                     work.sum(plan, contributions, done, length, floats(run));
                                     done += length;
                                   });
                    });
}

}  // namespace nibble
