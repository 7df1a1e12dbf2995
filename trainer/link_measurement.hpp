// How fast messages travel between two ranks: latency and bandwidth, one pair after the other.
//
// Not for: what all ranks reach together, which share links (trainer/exchange_measurement.hpp).
#pragma once

#include <utility>
#include <vector>

#include "comm/exchange_cost.hpp"
#include "comm/world.hpp"

namespace nibble {

struct Link {
  int from = 0, to = 0;
  double latency = 0;           ///< seconds, half of a round trip of small messages: the median of several
  double bytes_per_second = 0;  ///< of messages of 1 MiB in one direction: the best of several bursts
};

/// Ranks up to which every pair is measured.
inline constexpr int most_ranks_in_pairs = 16;

/// (from, to): all pairs; of more than most_ranks_in_pairs ranks each with the next one and with the first.
std::vector<std::pair<int, int>> pairs_to_measure(int ranks);

/// Of messages in the hosts' memory, GPUs or not. All ranks call these and get the same. They throw as
/// Communicator::transfer.
std::vector<Link> measure_links(World& world, const std::vector<std::pair<int, int>>& pairs);

/// The largest latency and the smallest bandwidth from a rank to the next one.
LinkCost slowest_link(World& world);

}  // namespace nibble
