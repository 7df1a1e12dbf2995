// A function run on every rank of a world of threads.
#pragma once

#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "comm/thread_communicator.hpp"

namespace nibble {

/// Returns when all ranks have returned. Throws what the lowest rank threw; a rank that throws fails the others.
inline void run_on_ranks(int ranks, const std::function<void(Communicator&)>& body, const RandomDelays& delays = {}) {
  const std::vector<std::unique_ptr<Communicator>> world = make_thread_communicators(ranks, delays);
  std::vector<std::exception_ptr> failures(world.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < world.size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(*world[rank]);
      } catch (...) {
        failures[rank] = std::current_exception();
        world[rank]->abandon();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace nibble
