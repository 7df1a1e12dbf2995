// What rank 0 and what the other ranks do with the news of their connections: comm/liveness.cpp drives one of the two.
//
// Not for threads and clocks of the watch itself: everything here runs on the thread of Liveness.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/liveness.hpp"

namespace nibble {

using LivenessClock = std::chrono::steady_clock;

/// Where a rank is in its work.
struct LivenessPlace {
  int64_t step = -1;  ///< -1 before the first
  std::string phase = "start";
};

/// The rank at the other end of a connection.
struct LivenessPeer {
  int rank;
  MessageConnection connection;
  LivenessClock::time_point heard = LivenessClock::now();
  LivenessPlace place{};
  bool ended = false;    ///< the connection has
  bool leaving = false;  ///< it said goodbye
};

struct LivenessFailure {
  int exit_code;
  std::string message;
};

class LivenessSide {
 public:
  LivenessSide(int rank, const std::vector<std::string>& hosts, std::vector<LivenessPeer> peers,
               const LivenessOptions& options)
      : rank_(rank), hosts_(hosts), peers_(std::move(peers)), options_(options) {}
  virtual ~LivenessSide() = default;

  std::vector<LivenessPeer>& peers() { return peers_; }
  /// Nothing is left to watch.
  bool over() const { return over_; }

  void tell(const LivenessPlace& place);
  /// Reads and writes what the connections have ready, and acts on it.
  void exchange();

  virtual void fail(const LivenessFailure& failure) = 0;  ///< this rank
  virtual void leave() = 0;                               ///< this rank is done; called again and again
  virtual void silent(LivenessPeer& peer) = 0;            ///< past the deadline
  virtual void look(LivenessClock::time_point now) = 0;   ///< time has passed

 protected:
  virtual void hear(LivenessPeer& peer, std::string_view word, std::string_view rest) = 0;
  virtual void lost(LivenessPeer& peer) = 0;  ///< its connection ended

  std::string name(int rank) const;
  /// The message about a rank whose place is known: `how` is "died".
  std::string obituary(const LivenessPeer& peer, const std::string& how) const;
  std::string silence() const;
  /// Goes on with the connections until all have ended or the time is over: a process that exits with unread input
  /// takes back what it has just sent.
  void linger(std::chrono::milliseconds time);
  void end(int exit_code);
  bool all_ended() const;

  const int rank_;
  const std::vector<std::string> hosts_;
  std::vector<LivenessPeer> peers_;
  const LivenessOptions options_;
  bool over_ = false;
};

std::unique_ptr<LivenessSide> make_first_side(const std::vector<std::string>& hosts, std::vector<LivenessPeer> peers,
                                              const LivenessOptions& options);
std::unique_ptr<LivenessSide> make_other_side(int rank, const std::vector<std::string>& hosts,
                                              std::vector<LivenessPeer> peers, const LivenessOptions& options);

}  // namespace nibble
