#include "trainer/exchange_measurement.hpp"

#include <algorithm>
#include <bit>

#include "trainer/processor_time.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {
namespace {

constexpr int repeats = 5;

/// Of f32: two buckets of gradients (trainer/shard_plan.cpp).
constexpr int64_t vector_elements = int64_t{2} << 20;

/// Of several, all of which begin on all ranks at the same time; before them one that may still make connections.
template <class Action>
double median_seconds(Communicator& ranks, Action&& action) {
  std::vector<double> seconds;
  for (int repeat = -1; repeat < repeats; ++repeat) {
    barrier(ranks);
    const Stopwatch watch;
    action();
    if (repeat >= 0) seconds.push_back(watch.seconds());
  }
  std::ranges::nth_element(seconds, seconds.begin() + repeats / 2);
  return seconds[repeats / 2];
}

}  // namespace

ExchangeSpeed measure_exchange(World& world, Wire wire) {
  if (world.size() == 1) return {};
  const int64_t part = vector_elements / world.size();
  std::vector<float> values(static_cast<size_t>(part * world.size()), 1);
  Parts parts;
  for (int rank = 0; rank < world.size(); ++rank)
    parts.push_back({std::as_writable_bytes(
        std::span(values).subspan(static_cast<size_t>(part * rank), static_cast<size_t>(part)))});
  std::vector<double> seconds(4);
  world.thread().run([&](Communicator& ranks) {
    seconds[0] = median_seconds(ranks, [&] { barrier(ranks); });
    const double begin = processor_seconds();
    const Stopwatch watch;
    seconds[1] = median_seconds(ranks, [&] { reduce_scatter(ranks, parts, wire); });
    seconds[2] = median_seconds(ranks, [&] { all_gather(ranks, parts); });
    seconds[3] = (processor_seconds() - begin) / watch.seconds();
  });
  seconds = largest_of_all(world, seconds);
  const auto sent = static_cast<double>(part * (world.size() - 1));
  const int rounds = std::bit_width(static_cast<unsigned>(world.size() - 1));  // of a barrier, each of a message's time
  return {.latency = seconds[0] / rounds,
          .summed_bytes_per_second = sent * (wire == Wire::bf16 ? 2 : 4) / seconds[1],
          .gathered_bytes_per_second = sent * 4 / seconds[2],
          .core_share = seconds[3]};
}

}  // namespace nibble
