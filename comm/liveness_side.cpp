#include "comm/liveness_side.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <charconv>

#include "tensor/error.hpp"

namespace nibble {

using std::chrono::milliseconds;

int speaker_without_first(const std::vector<std::string>& hosts, bool silent) {
  if (silent)
    for (size_t rank = 1; rank < hosts.size(); ++rank)
      if (hosts[rank] != hosts[0]) return static_cast<int>(rank);
  return 1;
}

void LivenessSide::tell(const LivenessPlace& place) {
  // A peer that does not read must not make the backlog grow.
  for (LivenessPeer& peer : peers_)
    if (!peer.ended && !peer.connection.has_unsent())
      peer.connection.send(fmt::format("at {} {}", place.step, place.phase));
}

void LivenessSide::exchange() {
  for (LivenessPeer& peer : peers_) {
    if (peer.ended || over_) continue;
    peer.ended = !peer.connection.exchange([&](std::string_view message) {
      peer.heard = LivenessClock::now();
      const size_t space = std::min(message.find(' '), message.size());
      const std::string_view word = message.substr(0, space);
      const std::string_view rest = message.substr(std::min(space + 1, message.size()));
      if (word == "at") {
        const auto [stop, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), peer.place.step);
        if (failure == std::errc()) peer.place.phase = rest.substr(static_cast<size_t>(stop - rest.data()) + 1);
      } else if (!over_) {
        hear(peer, word, rest);
      }
    });
    if (peer.ended && !over_) lost(peer);
  }
}

std::string LivenessSide::name(int rank) const {
  return fmt::format("rank {} on {}", rank, hosts_[static_cast<size_t>(rank)]);
}

std::string LivenessSide::obituary(const LivenessPeer& peer, const std::string& how) const {
  const std::string step = peer.place.step < 0 ? "" : fmt::format("step {}, ", peer.place.step);
  return Error({.kind = ErrorKind::communication,
                .what = fmt::format("{} {} ({}{})", name(peer.rank), how, step, peer.place.phase),
                .next = fmt::format("look for its last words above and for the reason in the system log of {}, then go "
                                    "on with --resume",
                                    hosts_[static_cast<size_t>(peer.rank)])})
      .what();
}

std::string LivenessSide::silence() const {
  return fmt::format("was not heard of for {} s", std::chrono::duration<double>(options_.deadline).count());
}

void LivenessSide::linger(milliseconds time) {
  const LivenessClock::time_point until = LivenessClock::now() + time;
  while (!all_ended() && LivenessClock::now() < until) {
    std::vector<pollfd> waiting;
    for (LivenessPeer& peer : peers_) {
      if (peer.ended) continue;
      peer.ended = !peer.connection.exchange([](std::string_view) {});
      const short wanted = peer.connection.has_unsent() ? POLLIN | POLLOUT : POLLIN;
      if (!peer.ended) waiting.push_back({.fd = peer.connection.socket(), .events = wanted, .revents = 0});
    }
    constexpr int glance = 20;  // ms
    if (!waiting.empty()) ::poll(waiting.data(), waiting.size(), glance);
  }
}

void LivenessSide::end(int exit_code) {
  over_ = true;
  options_.end(exit_code);
}

bool LivenessSide::all_ended() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const LivenessPeer& peer) { return peer.ended; });
}

}  // namespace nibble
