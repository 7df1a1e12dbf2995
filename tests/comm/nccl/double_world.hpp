// The ranks of one of the double's communicators, and how their messages get from one to the other: between threads of
// one process (thread_world.cpp), or over MPI between processes (mpi_world.cpp).
//
// One thread at a time calls it. A message is there until its receiver takes it; only then its sender goes on.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

namespace nibble::nccl_double {

class World {
 public:
  explicit World(int ranks) : ranks_(ranks) {}
  virtual ~World() = default;

  int ranks() const { return ranks_; }

  /// False: another rank of the same number, or on the same device, is there.
  virtual bool join(int rank, int device) = 0;
  virtual bool all_have_joined() = 0;
  virtual void end(int rank) = 0;
  virtual bool all_have_ended() = 0;
  /// Nobody takes this rank's messages any more.
  virtual void leave(int rank) = 0;

  /// *taken becomes true when the receiver has it; both stay until then, or until the rank leaves.
  virtual void post(int from, int to, std::span<const std::byte> bytes, bool* taken) = 0;
  /// The size of the message that is there, if one is.
  virtual std::optional<size_t> size_of_next(int from, int to) = 0;
  virtual void take(int from, int to, std::span<std::byte> bytes) = 0;
  /// Looks what became of messages that were posted.
  virtual void look() {}

 private:
  int ranks_;
};

std::shared_ptr<World> make_thread_world(int ranks);

}  // namespace nibble::nccl_double
