#include "trainer/interrupt.hpp"

#include <cstdlib>
#include <utility>

#include "comm/launcher.hpp"

namespace nibble {
namespace {

constexpr std::array<int, 3> fatal_when_repeated = {SIGINT, SIGTERM, SIGHUP};
constexpr std::array<int, 4> signals = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

volatile sig_atomic_t wished = 0;
volatile sig_atomic_t launched = 0;
bool in_scope = false;  // of the main thread, which alone makes scopes

void handle(int signal) {
  const bool requeue = signal == SIGUSR1 || launched != 0;
  const auto wish = static_cast<sig_atomic_t>(requeue ? StopWish::requeue : StopWish::interrupt);
  if (wish > wished) wished = wish;
  // The next one, whichever, is not caught. Batch systems send SIGUSR1 more than once, and SIGTERM after it.
  if (signal == SIGUSR1) return;
  for (const int fatal : fatal_when_repeated) ::signal(fatal, SIG_DFL);
}

}  // namespace

InterruptScope::InterruptScope() : outermost_(!std::exchange(in_scope, true)) {
  if (!outermost_) return;
  wished = 0;
  launched = find_launch(::getenv).launcher.empty() ? 0 : 1;
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < signals.size(); ++i) {
    sigaction(signals[i], nullptr, &before_[i]);
    if (before_[i].sa_handler != SIG_IGN) sigaction(signals[i], &action, nullptr);
  }
}

InterruptScope::~InterruptScope() {
  if (!outermost_) return;
  in_scope = false;
  for (size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &before_[i], nullptr);
}

StopWish InterruptScope::wish() { return static_cast<StopWish>(wished); }

}  // namespace nibble
