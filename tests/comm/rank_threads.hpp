// A function run on every rank of a world of threads.
#pragma once

#include <functional>

#include "comm/thread_communicator.hpp"

namespace nibble {

inline void run_on_ranks(int ranks, const std::function<void(Communicator&)>& body, const RandomDelays& delays = {}) {
  run_on_threads(make_thread_communicators(ranks, delays), body);
}

}  // namespace nibble
