#include "trainer/link_measurement.hpp"

#include <algorithm>
#include <cstddef>
#include <span>

#include "comm/collectives.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {
namespace {

constexpr int round_trips = 20, bursts = 3, messages_of_a_burst = 4;
constexpr size_t message_bytes = size_t{1} << 20;

/// What a burst is answered with, and what travels in a round trip.
constexpr size_t small_bytes = 8;

class Pair {
 public:
  Pair(Communicator& ranks, int peer, bool begins)
      : ranks_(ranks), peer_(peer), begins_(begins), memory_(ranks.staging(message_bytes)) {}

  double latency() {
    std::vector<double> seconds;
    for (int trip = -1; trip < round_trips; ++trip) {  // the first one may still make the connection
      const Stopwatch watch;
      pass(begins_, small_bytes);
      pass(!begins_, small_bytes);
      if (trip >= 0) seconds.push_back(watch.seconds());
    }
    std::nth_element(seconds.begin(), seconds.begin() + round_trips / 2, seconds.end());
    return seconds[round_trips / 2] / 2;
  }

  double bytes_per_second() {
    double best = 0;
    for (int burst = 0; burst < bursts; ++burst) {
      const Stopwatch watch;
      for (int message = 0; message < messages_of_a_burst; ++message) pass(begins_, message_bytes);
      pass(!begins_, small_bytes);
      best = std::max(best, static_cast<double>(messages_of_a_burst * message_bytes) / watch.seconds());
    }
    return best;
  }

 private:
  void pass(bool sends, size_t bytes) {
    const Communicator::Send send{peer_, memory_.first(bytes)};
    const Communicator::Receive receive{peer_, memory_.first(bytes)};
    if (sends) ranks_.transfer({&send, 1}, {});
    else ranks_.transfer({}, {&receive, 1});
  }

  Communicator& ranks_;
  int peer_;
  bool begins_;
  std::span<std::byte> memory_;
};

}  // namespace

std::vector<std::pair<int, int>> pairs_to_measure(int ranks) {
  std::vector<std::pair<int, int>> pairs;
  for (int from = 0; from < ranks; ++from)
    for (int to = 0; to < ranks; ++to)
      if (from != to && (ranks <= most_ranks_in_pairs || to == (from + 1) % ranks || from == 0 || to == 0))
        pairs.emplace_back(from, to);
  return pairs;
}

std::vector<Link> measure_links(World& world, const std::vector<std::pair<int, int>>& pairs) {
  std::vector<double> measured(2 * pairs.size());
  world.thread().run([&](Communicator& of) {
    Communicator& ranks = of.host();
    for (size_t i = 0; i < pairs.size(); ++i) {
      const auto [from, to] = pairs[i];
      barrier(ranks);
      if (ranks.rank() != from && ranks.rank() != to) continue;
      Pair pair(ranks, ranks.rank() == from ? to : from, ranks.rank() == from);
      const double latency = pair.latency(), rate = pair.bytes_per_second();
      if (ranks.rank() != from) continue;
      measured[2 * i] = latency;
      measured[2 * i + 1] = rate;
    }
  });
  measured = largest_of_all(world, measured);  // those of others are 0
  std::vector<Link> links;
  for (size_t i = 0; i < pairs.size(); ++i)
    links.push_back({pairs[i].first, pairs[i].second, measured[2 * i], measured[2 * i + 1]});
  return links;
}

LinkCost slowest_link(World& world) {
  std::vector<std::pair<int, int>> neighbours;
  for (int rank = 0; rank < world.size(); ++rank) neighbours.emplace_back(rank, (rank + 1) % world.size());
  LinkCost slowest;
  for (const Link& link : measure_links(world, neighbours)) {
    slowest.latency = std::max(slowest.latency, link.latency);
    slowest.per_byte = std::max(slowest.per_byte, 1 / link.bytes_per_second);
  }
  return slowest;
}

}  // namespace nibble
