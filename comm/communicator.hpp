// The ranks of a run and the one thing that they do together: send bytes to each other.
//
// Everything that ranks compute together (collectives.hpp) is written on top of `transfer`, so it runs the same over
// MPI, over NCCL, over threads of one process in tests, and alone. A communicator belongs to one thread.
// Messages lie in the host's memory; a device's communicator (device_communicator.hpp) has them in the device's.
// Not for: sums and gathers (collectives.hpp), for who runs where (world.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "tensor/tensor.hpp"

namespace nibble {

class Stream;

class Communicator {
 public:
  struct Send {
    int to = 0;
    std::span<const std::byte> bytes;
  };
  struct Receive {
    int from = 0;
    std::span<std::byte> bytes;
  };

  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Starts all of them at once and returns when all are complete. Between two ranks messages arrive in the order in
  /// which they were sent; empty ones are not sent at all. Neither side may name itself.
  /// Throws Error{communication} when a message has another size than its receiver expects, the transport fails, or
  /// the communicator was abandoned; after that every transfer does.
  void transfer(std::span<const Send> sends, std::span<const Receive> receives) {
    start(sends, receives);
    finish();
  }

  /// The two halves of `transfer`, so that the link has work while the caller has too. Several may be under way;
  /// `finish` completes the one that was started first. All ranks must start theirs in orders that match: they would
  /// complete, too, if each rank started one only when the one before it is complete.
  void start(std::span<const Send> sends, std::span<const Receive> receives) {
    for (const Send& send : sends) bytes_sent_ += send.bytes.size();
    do_start(sends, receives);
  }
  void finish() { do_finish(); }

  /// Of a device's communicator, else null: where its messages move in order with all other work. They leave with what
  /// was queued before `start` and are there for what is queued after `finish`; nobody waits on the host.
  virtual Stream* stream() { return nullptr; }
  /// Returns when all that was finished, and what was queued behind it, is done. Throws as `transfer`. On the host
  /// there is nothing to wait for.
  virtual void wait() {}
  /// The same ranks for messages in the host's memory: this one, or what a device's may itself stand on, so that
  /// nothing may be under way here meanwhile.
  virtual Communicator& host() { return *this; }

  /// Payload bytes that this rank has sent so far; with a device's communicator those of host() too, which are counted
  /// once.
  virtual uint64_t bytes_sent() const { return bytes_sent_; }

  /// From now on `transfer` throws, the one that is waiting too, and the destructor waits for nobody: the way out of a
  /// rank that has failed. The only function that another thread may call.
  virtual void abandon() = 0;

  enum Staging { messages, rounded, stagings };
  /// Memory of the messages' place, for those that do not lie in one piece, or for values that were rounded. It lasts
  /// as long as the communicator, so that its pages are touched once; what it holds lasts until the next call for the
  /// same.
  virtual std::span<std::byte> staging(size_t bytes, Staging use = messages) {
    Buffer& memory = staging_[use];
    if (memory.bytes() < bytes) {
      wait();
      memory = {};
      memory = Buffer(bytes, "communication", stream() ? Place::device : Place::host);
    }
    return {static_cast<std::byte*>(memory.data()), bytes};
  }

 private:
  virtual void do_start(std::span<const Send> sends, std::span<const Receive> receives) = 0;
  virtual void do_finish() = 0;

  uint64_t bytes_sent_ = 0;
  Buffer staging_[stagings];
};

/// A world of one rank, which has nobody to send to.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace nibble
