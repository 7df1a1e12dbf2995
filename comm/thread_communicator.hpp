// A world whose ranks are threads of this process: for exchanges that are only played, and for tests of everything that
// ranks do together.
//
// As over MPI, a transfer is complete only when its receiver has taken it, and the one who waits sleeps.
// Not for: passes of a model; the ranks of a process would share one OpenMP team.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.hpp"

namespace nibble {

/// Every transfer first sleeps for a random time, so that ranks meet in another order each time.
struct RandomDelays {
  uint64_t seed = 0;
  std::chrono::microseconds longest{0};
};

/// One communicator for each of `ranks` threads, by rank. When one is abandoned, or a message has a wrong size, all
/// transfers fail; when one is destroyed, those that wait for its rank do. They throw Error{communication}.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int ranks, const RandomDelays& delays = {});

/// Runs the body on every rank, each in a thread of its own, and returns when all have returned. Throws what the lowest
/// rank threw; a rank that throws fails the others.
void run_on_threads(std::span<const std::unique_ptr<Communicator>> ranks,
                    const std::function<void(Communicator&)>& body);

}  // namespace nibble
