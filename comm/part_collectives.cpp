// The collectives over vectors that are cut among the ranks.
#include <algorithm>
#include <array>
#include <bit>
#include <cassert>

#include "comm/collectives.hpp"
#include "comm/lanes.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

/// What one message carries, and what is staged for one peer: large against the latency of a round (a millisecond at
/// 10 Gbit/s), small enough that what arrived is still in the cache when it is summed.
constexpr size_t segment_bytes = size_t{1} << 20;

/// Elements that are summed at a time: the contributions of eight ranks fit into a core's second-level cache.
constexpr int64_t block_elements = 8192;

/// Each rank's block, widened.
constexpr size_t widened_bytes = static_cast<size_t>(block_elements) * sizeof(float);

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
  return (count + 1) * segment_bytes + count * widened_bytes;
}

void all_gather(Communicator& communicator, const Parts& parts) {
  const auto ranks = static_cast<size_t>(communicator.size()), rank = static_cast<size_t>(communicator.rank());
  assert(parts.size() == ranks);
  if (ranks == 1) return;
  const std::span<std::byte> staging = communicator.staging(2 * segment_bytes);
  const auto right = static_cast<int>((rank + 1) % ranks), left = static_cast<int>((rank + ranks - 1) % ranks);
  const size_t longest = longest_part(parts);
  for (size_t round = 0; round + 1 < ranks; ++round) {
    const Pieces& passed = parts[(rank + ranks - round) % ranks];
    const Pieces& awaited = parts[(rank + ranks - round - 1) % ranks];
    const size_t bytes_passed = bytes_of(passed), bytes_awaited = bytes_of(awaited);
    for (size_t first = 0; first < longest; first += segment_bytes) {
      const size_t out = length_of_segment(bytes_passed, first, segment_bytes);
      const size_t in = length_of_segment(bytes_awaited, first, segment_bytes);
      std::span<std::byte> sent = one_run(passed, first, out), received = one_run(awaited, first, in);
      const bool packs = sent.size() != out, unpacks = received.size() != in;
      if (packs) pack(passed, first, sent = staging.first(out));
      if (unpacks) received = staging.subspan(segment_bytes, in);
      const Communicator::Send send{right, sent};
      const Communicator::Receive receive{left, received};
      communicator.transfer({&send, 1}, {&receive, 1});
      if (unpacks) unpack(received, awaited, first);
    }
  }
}

void all_gather(Communicator& communicator, const Parts& parts, Wire wire) {
  if (wire == Wire::f32) return all_gather(communicator, parts);
  const size_t ranks = parts.size(), rank = static_cast<size_t>(communicator.rank());
  const size_t longest = longest_part(parts) / sizeof(float), segment = segment_bytes / sizeof(bf16);
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

void scatter_to_owners(Communicator& communicator, const Parts& parts, Wire wire, const Consume& consume) {
  const auto ranks = static_cast<size_t>(communicator.size()), rank = static_cast<size_t>(communicator.rank());
  assert(parts.size() == ranks);
  const size_t element = wire == Wire::bf16 ? sizeof(bf16) : sizeof(float), segment = segment_bytes / element;
  const size_t longest = longest_part(parts) / sizeof(float), own = bytes_of(parts[rank]) / sizeof(float);

  // Staged: what goes out and what came from each rank, this one too; behind that, widened blocks.
  const std::span<std::byte> staging = communicator.staging(collective_staging_bytes(communicator.size()));
  const auto staged = [&](size_t peer) { return staging.subspan((peer + 1) * segment_bytes, segment_bytes); };
  std::vector<std::span<std::byte>> arrived(ranks);
  std::vector<const float*> contributions(ranks);

  for (size_t first = 0; first < longest; first += segment) {
    const size_t count = length_of_segment(own, first, segment);
    for (size_t round = 1; round < ranks; ++round) {
      const size_t to = (rank + round) % ranks, from = (rank + ranks - round) % ranks;
      const size_t out = length_of_segment(bytes_of(parts[to]) / sizeof(float), first, segment);
      arrived[from] = staged(from).first(count * element);
      const Communicator::Send send{static_cast<int>(to),
                                    on_the_wire(parts[to], first, out, wire, staging.first(segment_bytes))};
      const Communicator::Receive receive{static_cast<int>(from), arrived[from]};
      communicator.transfer({&send, 1}, {&receive, 1});
    }
    if (count == 0) continue;
    arrived[rank] = on_the_wire(parts[rank], first, count, wire, staged(rank));

    const auto elements = static_cast<int64_t>(count);
    for (int64_t begin = 0; begin < elements; begin += block_elements) {
      const int64_t length = std::min(block_elements, elements - begin);
      for (size_t r = 0; r < ranks; ++r) {
        if (wire == Wire::f32) {
          contributions[r] = floats(arrived[r]) + begin;
        } else {
          float* const block = floats(staging.subspan((ranks + 1) * segment_bytes + r * widened_bytes, widened_bytes));
          to_f32(halves(arrived[r]) + begin, length, block);
          contributions[r] = block;
        }
      }
      consume(static_cast<int64_t>(first) + begin, length, contributions);
    }
  }
}

void reduce_scatter(Communicator& communicator, const Parts& parts, Wire wire) {
  const int64_t ranks = communicator.size();
  const std::vector<MicroBatchSum> plan =
      plan_lanes(ranks, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(ranks))));
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
