// The next batches, made ready by a thread while the current one is trained on.
//
// Not for: deciding which samples a batch holds; the caller's function does (Loader::batch).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "data/loader.hpp"

namespace nibble {

class Prefetcher {
 public:
  static constexpr size_t default_depth = 2;

  /// Makes batches `produce(first)`, `produce(first + 1)`, ... and keeps up to `depth` of them ready.
  /// `produce` runs in the prefetcher's thread.
  Prefetcher(std::function<Batch(int64_t index)> produce, int64_t first, size_t depth = default_depth);
  /// Waits for the batch that is being made, then ends the thread.
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next batch in order. Rethrows what `produce` threw for it, again at every further call.
  Batch next();

 private:
  void run();

  std::function<Batch(int64_t)> produce_;
  size_t depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr failure_;  // of the batch after those that are ready
  int64_t next_to_make_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nibble
