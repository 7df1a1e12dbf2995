// Ctrl-C and SIGTERM: the first asks the run to finish its step and save, a second one ends the process at once.
#pragma once

namespace nibble {

/// While it lives, SIGINT and SIGTERM set a flag instead of ending the process. One at a time.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  /// Whether a signal came.
  static bool requested();
};

}  // namespace nibble
