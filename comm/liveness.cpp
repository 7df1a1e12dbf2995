#include "comm/liveness.hpp"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "comm/liveness_side.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using std::chrono::milliseconds;

/// News of a rank's place travel faster than beats, so that a message about its death names the phase that it was in;
/// each look costs some microseconds.
constexpr milliseconds look_time(10);

volatile sig_atomic_t terminated = 0;
void note_termination(int) { terminated = 1; }

void say_to_stderr(const std::string& message) {
  const std::string line = message + "\n";
  // Nobody is left who could be told that stderr takes no more.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

/// Returns at the latest when the time is over.
void wait_for_news(const std::vector<LivenessPeer>& peers, milliseconds time) {
  std::vector<pollfd> waiting;
  for (const LivenessPeer& peer : peers) {
    const short wanted = peer.connection.has_unsent() ? POLLIN | POLLOUT : POLLIN;
    if (!peer.ended) waiting.push_back({.fd = peer.connection.socket(), .events = wanted, .revents = 0});
  }
  ::poll(waiting.data(), waiting.size(), static_cast<int>(time.count()));
}

}  // namespace

Liveness::Liveness(int rank, const std::vector<std::string>& hosts, std::vector<MessageConnection> connections,
                   LivenessOptions options) {
  if (!options.say) options.say = say_to_stderr;
  if (!options.end) options.end = ::_exit;
  std::vector<LivenessPeer> peers;
  for (size_t i = 0; i < connections.size(); ++i)
    peers.push_back({.rank = rank == 0 ? static_cast<int>(i) + 1 : 0, .connection = std::move(connections[i])});
  side_ = rank == 0 ? make_first_side(hosts, std::move(peers), options)
                    : make_other_side(rank, hosts, std::move(peers), options);
  // mpirun sends SIGTERM to all ranks when one has died: who would die of it could not say which.
  struct sigaction before {};
  sigaction(SIGTERM, nullptr, &before);
  if (before.sa_handler == SIG_DFL) ::signal(SIGTERM, note_termination);
  thread_ = std::thread([this, options] { watch(options.beat, options.deadline); });
}

Liveness::~Liveness() {
  {
    const std::lock_guard lock(mutex_);
    orders_.abandoned = true;
  }
  thread_.join();
  struct sigaction now {};
  sigaction(SIGTERM, nullptr, &now);
  if (now.sa_handler == note_termination) ::signal(SIGTERM, SIG_DFL);
}

void Liveness::at(int64_t step, const char* phase) {
  const std::lock_guard lock(mutex_);
  orders_.step = step;
  orders_.phase = phase;
}

void Liveness::fail(int exit_code, const std::string& message) {
  {
    const std::lock_guard lock(mutex_);
    orders_.exit_code = exit_code;
    orders_.failure = message;
  }
  wait_for_the_end();
}

void Liveness::goodbye() {
  {
    const std::lock_guard lock(mutex_);
    orders_.leaving = true;
  }
  wait_for_the_end();
}

void Liveness::wait_for_the_end() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return over_; });
}

Liveness::Orders Liveness::orders() {
  const std::lock_guard lock(mutex_);
  Orders orders = orders_;
  if (terminated && orders.failure.empty()) {
    orders.exit_code = static_cast<int>(ErrorKind::communication);
    orders.failure = Error({.kind = ErrorKind::communication,
                            .what = "ended by SIGTERM",
                            .next = "a launcher sends it when a rank has ended or when it is itself asked to end: see "
                                    "its message"})
                         .what();
  }
  return orders;
}

void Liveness::watch(milliseconds beat, milliseconds deadline) {
  Orders told;
  LivenessClock::time_point told_at{}, before = LivenessClock::now();
  bool failed = false;
  while (!side_->over()) {
    wait_for_news(side_->peers(), std::min(beat, look_time));
    const Orders now_ordered = orders();
    if (now_ordered.abandoned) break;
    side_->exchange();
    if (side_->over()) break;
    if (!failed && !now_ordered.failure.empty()) {
      side_->fail({.exit_code = now_ordered.exit_code, .message = now_ordered.failure});
      failed = true;
    }
    if (now_ordered.leaving) side_->leave();

    const LivenessClock::time_point now = LivenessClock::now();
    if (now_ordered.step != told.step || now_ordered.phase != told.phase || now - told_at >= beat) {
      side_->tell({.step = now_ordered.step, .phase = now_ordered.phase});
      told = now_ordered;
      told_at = now;
    }
    // Who was stopped itself (Ctrl-Z, a suspended job) has not listened: the others get their time again.
    const bool slept = now - before > deadline / 2;
    before = now;
    for (LivenessPeer& peer : side_->peers()) {
      if (slept) peer.heard = now;
      if (!peer.ended && now - peer.heard > deadline && !side_->over()) side_->silent(peer);
    }
    if (!side_->over()) side_->look(now);
  }
  side_->peers().clear();  // which tells the others that this rank has understood
  const std::lock_guard lock(mutex_);
  over_ = true;
  changed_.notify_all();
}

}  // namespace nibble
