// The processor's time, for what waits as much as it works.
#pragma once

#include <time.h>

namespace nibble {

/// Seconds of the calling thread.
inline double processor_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace nibble
