#include "trainer/interrupt.hpp"

namespace nibble {
namespace {

constexpr std::array<int, 3> signals = {SIGINT, SIGTERM, SIGHUP};
volatile sig_atomic_t interrupted = 0;

void handle(int) {
  interrupted = 1;
  for (const int signal : signals) ::signal(signal, SIG_DFL);  // the next one, whichever, is not caught
}

}  // namespace

InterruptScope::InterruptScope() {
  interrupted = 0;
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  for (size_t i = 0; i < signals.size(); ++i) {
    sigaction(signals[i], nullptr, &before_[i]);
    if (before_[i].sa_handler != SIG_IGN) sigaction(signals[i], &action, nullptr);
  }
}

InterruptScope::~InterruptScope() {
  for (size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &before_[i], nullptr);
}

bool InterruptScope::requested() { return interrupted != 0; }

}  // namespace nibble
