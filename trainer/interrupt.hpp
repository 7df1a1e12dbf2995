// Ctrl-C, SIGTERM and a lost terminal: the first asks the run to finish its step and save, a second one ends the
// process at once.
#pragma once

#include <signal.h>

#include <array>

namespace nibble {

/// While it lives, SIGINT, SIGTERM and SIGHUP set a flag instead of ending the process, unless they were ignored
/// (nohup). One at a time; what was before comes back with its end.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  /// Whether a signal came.
  static bool requested();

 private:
  std::array<struct sigaction, 3> before_{};
};

}  // namespace nibble
