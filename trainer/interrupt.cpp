#include "trainer/interrupt.hpp"

#include <csignal>

namespace nibble {
namespace {

volatile std::sig_atomic_t interrupted = 0;

void handle(int signal) {
  interrupted = 1;
  std::signal(signal, SIG_DFL);  // the next one is not caught
}

}  // namespace

InterruptScope::InterruptScope() {
  interrupted = 0;
  std::signal(SIGINT, handle);
  std::signal(SIGTERM, handle);
}

InterruptScope::~InterruptScope() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptScope::requested() { return interrupted != 0; }

}  // namespace nibble
