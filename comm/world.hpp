// The ranks of this run: who they are, how they talk, and how all of them end when one fails.
//
// Not for what they say to each other (collectives.hpp, exchange.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communication_thread.hpp"
#include "comm/launcher.hpp"
#include "comm/liveness.hpp"

namespace nibble {

class World {
 public:
  virtual ~World() = default;

  int rank() const { return thread().rank(); }
  int size() const { return thread().size(); }
  bool is_first() const { return rank() == 0; }  ///< the rank that speaks for all: progress, metrics, manifests

  virtual CommunicationThread& thread() const = 0;
  /// How many ranks share this rank's host, and the how-manieth of these it is.
  virtual int local_size() const = 0;
  virtual int local_rank() const = 0;
  /// By rank.
  virtual const std::vector<std::string>& hosts() const = 0;

  /// Where this rank is: what the others say about it should it die. `phase` is a literal: "backward pass".
  virtual void at(int64_t step, const char* phase) = 0;

  /// Runs `body`, in whose course all ranks are at work for each other. What it throws on any rank ends all of them
  /// with that error's exit code and one message, in place: this does not return. A rank that is alone throws it on.
  virtual void run(const std::function<void()>& body) { body(); }
};

struct WorldOptions {
  Environment environment{};  ///< by default the process's own
  LivenessOptions liveness{};
};

/// The ranks that the launcher of this process has started; alone without one. While it lives, a rank that dies or is
/// not heard of ends all others (liveness.hpp). Its end waits for all ranks.
/// Throws Error: configuration (require_all_ranks), communication (the ranks do not find each other). Ranks that run
/// another executable end all.
std::unique_ptr<World> make_world(const WorldOptions& options = {});

/// What a command that may run on several ranks does: makes the world, runs the body in it, and takes leave of it.
void run_in_world(const std::function<void(World&)>& body, const WorldOptions& options = {});

}  // namespace nibble
