// The collectives over vectors that are cut among the ranks.
#include <algorithm>
#include <array>
#include <cassert>

#include "comm/collectives.hpp"
#include "comm/lanes.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

/// What one transfer carries, and the unit of staging: so large that the latency of a transfer does not count, so small
/// that what has arrived is still in the cache when it is summed.
constexpr size_t segment_bytes = size_t{1} << 19;

/// Transfers that are under way at a time: the link goes on while one is completed and its segment is summed.
constexpr size_t window = 3;

/// Of each part that is gathered as bf16, the bytes that are rounded and widened at a time: several segments.
constexpr size_t rounded_bytes = 8 * segment_bytes;

/// Elements that are summed at a time: the contributions of eight ranks fit into a core's second-level cache.
constexpr int64_t block_elements = 8192;

constexpr size_t block_bytes = static_cast<size_t>(block_elements) * sizeof(float);

size_t longest_part(const Parts& parts) {
  size_t longest = 0;
  for (const Pieces& pieces : parts) longest = std::max(longest, bytes_of(pieces));
  return longest;
}

/// The length of the segment of a part of `bytes` that begins at `first`.
size_t length_of_segment(size_t bytes, size_t first, size_t segment) {
  return first < bytes ? std::min(segment, bytes - first) : 0;
}

void to_bf16(const float* from, int64_t count, bf16* to) {
  simd::for_each_group(count, [&](int64_t i, int64_t n) { simd::store_n(to + i, simd::load_n(from + i, n), n); });
}

void to_f32(const bf16* from, int64_t count, float* to) {
  simd::for_each_group(count, [&](int64_t i, int64_t n) { simd::store_n(to + i, simd::load_n(from + i, n), n); });
}

float* floats(std::span<std::byte> bytes) { return reinterpret_cast<float*>(bytes.data()); }
bf16* halves(std::span<std::byte> bytes) { return reinterpret_cast<bf16*>(bytes.data()); }

/// Elements [first, first + count) of f32 pieces as they travel: where they lie if they can, else in `staging`.
std::span<std::byte> on_the_wire(const Pieces& pieces, size_t first, size_t count, Wire wire,
                                 std::span<std::byte> staging) {
  const size_t begin = first * sizeof(float), length = count * sizeof(float);
  if (wire == Wire::f32) {
    if (const std::span<std::byte> run = one_run(pieces, begin, length); run.size() == length) return run;
    pack(pieces, begin, staging.first(length));
    return staging.first(length);
  }
  bf16* to = halves(staging);
  for_each_run(pieces, begin, length, [&](std::span<std::byte> run) {
    const size_t elements = run.size() / sizeof(float);
    to_bf16(floats(run), static_cast<int64_t>(elements), to);
    to += elements;
  });
  return staging.first(count * sizeof(bf16));
}

/// sum[i] = the contributions' elements i, added in the order of the plan.
void sum_in_order(const std::vector<MicroBatchSum>& plan, std::span<const float* const> contributions, int64_t first,
                  int64_t count, float* sum) {
  std::array<simd::f32x, 32> slots;
  simd::for_each_group(count, [&](int64_t i, int64_t n) {
    for (const MicroBatchSum& entry : plan) {
      const simd::f32x value = simd::load_n(contributions[static_cast<size_t>(entry.micro_batch)] + first + i, n);
      simd::f32x& slot = slots[static_cast<size_t>(entry.slot)];
      slot = entry.accumulate ? slot + value : value;
      for (const MicroBatchSum::Join& join : entry.joins)
        slots[static_cast<size_t>(join.into)] += slots[static_cast<size_t>(join.from)];
    }
    simd::store_n(sum + i, slots[0], n);
  });
}

}  // namespace

size_t collective_staging_bytes(int ranks) {
  const auto count = static_cast<size_t>(ranks);
  return std::max(2 * window, window + 2 * count) * segment_bytes + count * block_bytes;
}

void all_gather(Communicator& communicator, const Parts& parts) {
  const auto ranks = static_cast<size_t>(communicator.size()), rank = static_cast<size_t>(communicator.rank());
  assert(parts.size() == ranks);
  const auto right = static_cast<int>((rank + 1) % ranks), left = static_cast<int>((rank + ranks - 1) % ranks);
  const size_t segments = (longest_part(parts) + segment_bytes - 1) / segment_bytes;
  const std::span<std::byte> staging = communicator.staging(2 * window * segment_bytes);

  /// A segment of a part, where it lies if that is one run.
  struct Segment {
    const Pieces* part;
    size_t first;
    std::span<std::byte> memory;
    bool staged;
  };
  const auto segment_of = [&](size_t owner, size_t segment, size_t slot) {
    const Pieces& part = parts[owner % ranks];
    const size_t first = segment * segment_bytes;
    const size_t bytes = length_of_segment(bytes_of(part), first, segment_bytes);
    const std::span<std::byte> run = one_run(part, first, bytes);
    const bool staged = run.size() != bytes;
    return Segment{&part, first, staged ? staging.subspan(slot * segment_bytes, bytes) : run, staged};
  };

  // Every segment of every part but the own one arrives, and is passed on a round later.
  std::array<Segment, window> arriving;
  size_t started = 0;
  for (size_t finished = 0; finished < (ranks - 1) * segments; ++finished) {
    for (; started < std::min((ranks - 1) * segments, finished + std::min(window, segments)); ++started) {
      const size_t round = started / segments, segment = started % segments, slot = started % window;
      const Segment passed = segment_of(rank + ranks - round, segment, 2 * slot);
      if (passed.staged) pack(*passed.part, passed.first, passed.memory);
      arriving[slot] = segment_of(rank + ranks - round - 1, segment, 2 * slot + 1);
      const Communicator::Send send{right, passed.memory};
      const Communicator::Receive receive{left, arriving[slot].memory};
      communicator.start({&send, 1}, {&receive, 1});
    }
    communicator.finish();
    const Segment& arrived = arriving[finished % window];
    if (arrived.staged) unpack(arrived.memory, *arrived.part, arrived.first);
  }
}

void all_gather(Communicator& communicator, const Parts& parts, Wire wire) {
  if (wire == Wire::f32) return all_gather(communicator, parts);
  const size_t ranks = parts.size(), rank = static_cast<size_t>(communicator.rank());
  const size_t longest = longest_part(parts) / sizeof(float), segment = rounded_bytes / sizeof(bf16);
  std::vector<bf16> rounded(ranks * std::min(longest, segment));
  for (size_t first = 0; first < longest; first += segment) {
    Parts wired(ranks);
    for (size_t r = 0; r < ranks; ++r)
      wired[r] = {std::as_writable_bytes(std::span(rounded).subspan(
          r * std::min(longest, segment), length_of_segment(bytes_of(parts[r]) / sizeof(float), first, segment)))};
    const std::span<std::byte> own = wired[rank].front();
    on_the_wire(parts[rank], first, own.size() / sizeof(bf16), Wire::bf16, own);
    all_gather(communicator, wired);
    for (size_t r = 0; r < ranks; ++r) {
      const bf16* from = halves(wired[r].front());
      for_each_run(parts[r], first * sizeof(float), wired[r].front().size() * sizeof(float) / sizeof(bf16),
                   [&](std::span<std::byte> run) {
                     to_f32(from, static_cast<int64_t>(run.size() / sizeof(float)), floats(run));
                     from += run.size() / sizeof(float);
                   });
    }
  }
}

namespace {

/// The staging of scatter_to_owners: while one segment of the own part is consumed, the next one arrives.
class ScatterStaging {
 public:
  ScatterStaging(Communicator& communicator, Wire wire)
      : ranks_(static_cast<size_t>(communicator.size())),
        memory_(communicator.staging((window + 2 * ranks_) * segment_bytes +
                                     (wire == Wire::bf16 ? ranks_ * block_bytes : 0))) {}

  std::span<std::byte> outgoing(size_t transfer) const { return unit(transfer % window); }
  std::span<std::byte> arriving(size_t segment, size_t peer) const {
    return unit(window + segment % 2 * ranks_ + peer);
  }
  float* widened(size_t peer) const {
    return floats(memory_.subspan((window + 2 * ranks_) * segment_bytes + peer * block_bytes, block_bytes));
  }

 private:
  std::span<std::byte> unit(size_t i) const { return memory_.subspan(i * segment_bytes, segment_bytes); }

  size_t ranks_;
  std::span<std::byte> memory_;
};

/// Hands `count` elements of the own part, as they came from each rank, to `consume`.
void consume_segment(std::span<const std::span<std::byte>> arrived, int64_t first, int64_t count, Wire wire,
                     const ScatterStaging& staging, const Consume& consume) {
  std::vector<const float*> contributions(arrived.size());
  for (int64_t begin = 0; begin < count; begin += block_elements) {
    const int64_t length = std::min(block_elements, count - begin);
    for (size_t peer = 0; peer < arrived.size(); ++peer) {
      if (wire == Wire::f32) {
        contributions[peer] = floats(arrived[peer]) + begin;
      } else {
        to_f32(halves(arrived[peer]) + begin, length, staging.widened(peer));
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
  const size_t element = wire == Wire::bf16 ? sizeof(bf16) : sizeof(float), capacity = segment_bytes / element;
  const size_t longest = longest_part(parts) / sizeof(float), rounds = ranks - 1;
  const size_t segments = (longest + capacity - 1) / capacity;
  const ScatterStaging staging(communicator, wire);
  const auto count_of = [&](size_t owner, size_t segment) {
    return length_of_segment(bytes_of(parts[owner]) / sizeof(float), segment * capacity, capacity);
  };

  size_t started = 0;
  const auto start_next = [&] {
    const size_t segment = started / rounds, round = started % rounds + 1;
    const size_t to = (rank + round) % ranks, from = (rank + ranks - round) % ranks;
    const Communicator::Send send{
        static_cast<int>(to),
        on_the_wire(parts[to], segment * capacity, count_of(to, segment), wire, staging.outgoing(started))};
    const Communicator::Receive receive{static_cast<int>(from),
                                        staging.arriving(segment, from).first(count_of(rank, segment) * element)};
    communicator.start({&send, 1}, {&receive, 1});
    ++started;
  };

  std::vector<std::span<std::byte>> arrived(ranks);
  for (size_t segment = 0; segment < segments; ++segment) {
    const size_t count = count_of(rank, segment);
    for (size_t finished = segment * rounds; finished < (segment + 1) * rounds; ++finished) {
      while (started < std::min({finished + window, (segment + 2) * rounds, segments * rounds})) start_next();
      communicator.finish();
    }
    for (size_t peer = 0; peer < ranks; ++peer) arrived[peer] = staging.arriving(segment, peer).first(count * element);
    arrived[rank] = on_the_wire(parts[rank], segment * capacity, count, wire, arrived[rank]);
    consume_segment(arrived, static_cast<int64_t>(segment * capacity), static_cast<int64_t>(count), wire, staging,
                    consume);
  }
}

void reduce_scatter(Communicator& communicator, const Parts& parts, Wire wire) {
  const int64_t ranks = communicator.size();
  const std::vector<MicroBatchSum> plan = plan_lanes(ranks, ranks);
  const Pieces& own = parts[static_cast<size_t>(communicator.rank())];
  scatter_to_owners(communicator, parts, wire,
                    [&](int64_t first, int64_t count, std::span<const float* const> contributions) {
                      int64_t done = 0;
                      for_each_run(own, static_cast<size_t>(first) * sizeof(float),
                                   static_cast<size_t>(count) * sizeof(float), [&](std::span<std::byte> run) {
                                     const auto length = static_cast<int64_t>(run.size() / sizeof(float));
                                     sum_in_order(plan, contributions, done, length, floats(run));
                                     done += length;
                                   });
                    });
}

}  // namespace nibble
