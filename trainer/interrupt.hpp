// Signals that ask a run to finish its step and save: a person's (Ctrl-C, SIGTERM, a lost terminal), of which a second
// one ends the process at once, and a launcher's (SIGUSR1; under a launcher the others too).
//
// The wish is this rank's alone: ranks that step together agree on the strongest.
#pragma once

#include <signal.h>

#include <array>

namespace nibble {

/// What follows the save; the stronger of two is the greater.
enum class StopWish : int {
  none = 0,
  interrupt = 1,  ///< a person will go on with the run, or not: exit_interrupted
  requeue = 2,    ///< whoever started the program starts it again: exit_requeue
};

/// While it lives, SIGINT, SIGTERM, SIGHUP and SIGUSR1 set a wish instead of ending the process, unless they were
/// ignored (nohup). What was before comes back with its end. One within another changes nothing: the wish is the outer
/// one's.
class InterruptScope {
 public:
  /// Asks the environment whether a launcher started this process.
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  static StopWish wish();

 private:
  bool outermost_;
  std::array<struct sigaction, 4> before_{};
};

}  // namespace nibble
