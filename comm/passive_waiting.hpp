// How a thread waits for what it must ask about: libraries' own waiting takes a whole core, which others could compute
// on.
#pragma once

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace nibble {

class PassiveWaiting {
 public:
  /// Looks for a short time without pause, since what is small comes soon; then sleeps, longer each time.
  void pause() {
    if (Clock::now() < sleeps_from_) return;
    std::this_thread::sleep_for(sleep_);
    sleep_ = std::min(2 * sleep_, longest_sleep);
  }
  void progressed() { *this = {}; }

  /// How long it has waited since something progressed.
  std::chrono::nanoseconds time() const { return Clock::now() - begin_; }

  /// Linux prolongs every sleep by up to 50 us unless told otherwise; those here are as short as that.
  static void prepare_thread() { prctl(PR_SET_TIMERSLACK, 1000UL); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds spin{30}, shortest_sleep{10}, longest_sleep{80};

  Clock::time_point begin_ = Clock::now(), sleeps_from_ = begin_ + spin;
  std::chrono::microseconds sleep_ = shortest_sleep;
};

}  // namespace nibble
