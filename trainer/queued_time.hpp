// How long a call takes that others stand before in a device's queue.
//
// Not for: the time between two events of a queue (tensor/cuda/device.hpp), work that is waited for after each call.
#pragma once

#include <algorithm>
#include <limits>

#include "tensor/stream.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {

/// Seconds of one call among eight that are queued together: the best of four times, after one that does not count.
template <class Call>
double queued_seconds(Stream& stream, const Call& call) {
  constexpr int times = 4, together = 8;
  double best = std::numeric_limits<double>::infinity();
  for (int time = 0; time <= times; ++time) {
    stream.wait();
    const Stopwatch watch;
    for (int i = 0; i < together; ++i) call();
    stream.wait();
    if (time > 0) best = std::min(best, watch.seconds() / together);
  }
  return best;
}

}  // namespace nibble
