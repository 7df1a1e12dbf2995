#include "data/prefetcher.hpp"

#include <utility>

namespace nibble {

Prefetcher::Prefetcher(std::function<Batch(int64_t)> produce, int64_t first, size_t depth)
    : produce_(std::move(produce)), depth_(depth > 0 ? depth : 1), next_to_make_(first) {
  thread_ = std::thread(&Prefetcher::run, this);
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Batch Prefetcher::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || failure_; });
  if (ready_.empty()) std::rethrow_exception(failure_);
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  lock.unlock();
  changed_.notify_all();
  return batch;
}

void Prefetcher::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || (!failure_ && ready_.size() < depth_); });
    if (stop_) return;
    const int64_t index = next_to_make_;
    lock.unlock();
    Batch batch;
    std::exception_ptr failure;
    try {
      batch = produce_(index);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      failure_ = failure;
    } else {
      ready_.push_back(std::move(batch));
      ++next_to_make_;
    }
    changed_.notify_all();
  }
}

}  // namespace nibble
