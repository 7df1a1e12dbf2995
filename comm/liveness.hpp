// Whether the other ranks live, and one end for all of them when a rank fails, dies or falls silent.
//
// A thread of its own on every rank, over TCP connections of its own between rank 0 and each other rank: it works while
// the communicator is stuck with a dead peer. The kernel closes a dead process's connection at once; a cut link is
// silence. Rank 0 decides, says why, once, and tells the others; should rank 0 be the one, another speaks.
// Not for making the connections (rendezvous.hpp), nor for restarting anything.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/message_connection.hpp"

namespace nibble {

struct LivenessOptions {
  std::chrono::milliseconds beat{1000};       ///< between two signs of life
  std::chrono::milliseconds deadline{20000};  ///< a rank that gave none for so long is lost
  /// By default to stderr, in one write: locks of the C library may be held by a thread that hangs.
  std::function<void(const std::string& message)> say{};
  /// By default _exit: nothing else ends a process whose other threads hang inside MPI.
  std::function<void(int exit_code)> end{};
};

/// Which rank speaks when rank 0 cannot: rank 1, unless rank 0's host cannot be heard of; then the first rank
/// elsewhere.
int speaker_without_first(const std::vector<std::string>& hosts, bool silent);

class LivenessSide;  // liveness_side.hpp

class Liveness {
 public:
  /// `hosts` by rank. On rank 0 the connections lead to ranks 1, 2 ...; on the others there is one, to rank 0.
  Liveness(int rank, const std::vector<std::string>& hosts, std::vector<MessageConnection> connections,
           LivenessOptions options);
  /// Without `goodbye` the others take it for this rank's death.
  ~Liveness();
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;

  /// Where this rank is: what is said about it should it die. `phase` is a literal. As good as free.
  void at(int64_t step, const char* phase);

  /// This rank cannot go on: all ranks end with this exit code and the message is printed once, also where several fail
  /// alike. Errors of communication yield to a death or another error: they follow from it. Returns only where
  /// options.end does.
  void fail(int exit_code, const std::string& message);

  /// All is done here; returns when all ranks have said so. Nobody is watched afterwards.
  void goodbye();

 private:
  /// What the owner has told the watch.
  struct Orders {
    int64_t step = -1;
    const char* phase = "start";
    int exit_code = 0;
    std::string failure{};
    bool leaving = false, abandoned = false;
  };

  Orders orders();
  void watch(std::chrono::milliseconds beat, std::chrono::milliseconds deadline);
  void wait_for_the_end();

  std::unique_ptr<LivenessSide> side_;  ///< the thread's own
  std::mutex mutex_;
  std::condition_variable changed_;
  // Behind the mutex.
  Orders orders_{};
  bool over_ = false;

  std::thread thread_;
};

}  // namespace nibble
