#include "comm/collectives.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>

namespace nibble {
namespace {

/// Memory cut into the parts of the ranks, of any sizes, which every rank knows.
class RankParts {
 public:
  RankParts(std::span<std::byte> memory, std::span<const int64_t> sizes) : memory_(memory), offsets_{0} {
    for (const int64_t size : sizes) offsets_.push_back(offsets_.back() + static_cast<size_t>(size));
    assert(offsets_.back() == memory.size());
  }

  /// The parts of ranks [first, last).
  std::span<std::byte> of(int first, int last) const {
    const size_t begin = offsets_[static_cast<size_t>(first)];
    return memory_.subspan(begin, offsets_[static_cast<size_t>(last)] - begin);
  }
  std::span<std::byte> of(int rank) const { return of(rank, rank + 1); }

 private:
  std::span<std::byte> memory_;
  std::vector<size_t> offsets_;
};

/// Every rank's part goes to all; a rank's own is there already.
///
/// ceil(log2 P) rounds: in the round of distance d every rank passes on the first d parts that it has, counted from its
/// own (Bruck et al., "Efficient algorithms for all-to-all communications in multiport message-passing systems", 1997).
void gather_parts(Communicator& communicator, const RankParts& parts) {
  const int ranks = communicator.size(), rank = communicator.rank();
  for (int distance = 1; distance < ranks; distance *= 2) {
    const int to = (rank - distance + ranks) % ranks, from = (rank + distance) % ranks;
    const int count = std::min(distance, ranks - distance);
    // They may go on behind the last rank with the first.
    const Communicator::Send sends[] = {{to, parts.of(rank, std::min(rank + count, ranks))},
                                        {to, parts.of(0, std::max(rank + count - ranks, 0))}};
    const Communicator::Receive receives[] = {{from, parts.of(from, std::min(from + count, ranks))},
                                              {from, parts.of(0, std::max(from + count - ranks, 0))}};
    communicator.transfer(sends, receives);
  }
}

}  // namespace

// Dissemination (Hensgen, Finkel and Manber, 1988): after the round of distance d a rank has heard of 2d ranks.
void barrier(Communicator& of) {
  Communicator& communicator = of.host();
  const int ranks = communicator.size(), rank = communicator.rank();
  std::byte sent{}, received{};
  for (int distance = 1; distance < ranks; distance *= 2) {
    const Communicator::Send send{(rank + distance) % ranks, {&sent, 1}};
    const Communicator::Receive receive{(rank - distance + ranks) % ranks, {&received, 1}};
    communicator.transfer({&send, 1}, {&receive, 1});
  }
}

// A binomial tree over the ranks counted from the root: each gets the bytes from the one without its highest bit. Large
// ones go in segments, so that a rank passes on while it receives.
void broadcast(Communicator& communicator, int root, std::span<std::byte> bytes) {
  constexpr size_t segment_bytes = size_t{1} << 20;
  const int ranks = communicator.size(), place = (communicator.rank() - root + ranks) % ranks;
  for (; !bytes.empty(); bytes = bytes.subspan(std::min(segment_bytes, bytes.size()))) {
    const std::span<std::byte> segment = bytes.first(std::min(segment_bytes, bytes.size()));
    for (int distance = 1; distance < ranks; distance *= 2) {
      if (place < distance && place + distance < ranks) {
        const Communicator::Send send{(place + distance + root) % ranks, segment};
        communicator.transfer({&send, 1}, {});
      } else if (place >= distance && place < 2 * distance) {
        const Communicator::Receive receive{(place - distance + root) % ranks, segment};
        communicator.transfer({}, {&receive, 1});
      }
    }
  }
}

void gather_all(Communicator& of, std::span<const double> mine, std::span<const int64_t> counts,
                std::span<double> all) {
  Communicator& communicator = of.host();
  assert(counts.size() == static_cast<size_t>(communicator.size()));
  std::vector<int64_t> sizes;
  for (const int64_t count : counts) sizes.push_back(count * static_cast<int64_t>(sizeof(double)));
  const RankParts parts(std::as_writable_bytes(all), sizes);
  const std::span<std::byte> own = parts.of(communicator.rank());
  assert(own.size() == mine.size_bytes());
  if (!mine.empty()) std::memcpy(own.data(), mine.data(), own.size());
  gather_parts(communicator, parts);
}

std::vector<std::string> gather_all(Communicator& of, const std::string& mine) {
  Communicator& communicator = of.host();
  const int ranks = communicator.size(), rank = communicator.rank();
  std::vector<int64_t> sizes(static_cast<size_t>(ranks));
  sizes[static_cast<size_t>(rank)] = static_cast<int64_t>(mine.size());
  const std::vector<int64_t> size_of_sizes(sizes.size(), sizeof(int64_t));
  gather_parts(communicator, RankParts(std::as_writable_bytes(std::span(sizes)), size_of_sizes));

  std::string all(static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0})), '\0');
  const RankParts parts(std::as_writable_bytes(std::span(all)), sizes);
  if (!mine.empty()) std::memcpy(parts.of(rank).data(), mine.data(), mine.size());
  gather_parts(communicator, parts);

  std::vector<std::string> texts;
  for (int r = 0; r < ranks; ++r)
    texts.emplace_back(reinterpret_cast<const char*>(parts.of(r).data()), parts.of(r).size());
  return texts;
}

}  // namespace nibble
