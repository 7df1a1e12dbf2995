// The ranks of a run and the one thing that they do together: send bytes to each other.
//
// Everything that ranks compute together (collectives.hpp) is written on top of `transfer`, so it runs the same over
// MPI, over threads of one process in tests, and alone. A communicator belongs to one thread.
// Not for: sums and gathers (collectives.hpp), for who runs where (world.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace nibble {

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
  /// Throws Error{communication} when a message has another size than its receiver expects, or the transport fails.
  void transfer(std::span<const Send> sends, std::span<const Receive> receives) {
    for (const Send& send : sends) bytes_sent_ += send.bytes.size();
    do_transfer(sends, receives);
  }

  /// Payload bytes that this rank has sent so far.
  uint64_t bytes_sent() const { return bytes_sent_; }

 private:
  virtual void do_transfer(std::span<const Send> sends, std::span<const Receive> receives) = 0;

  uint64_t bytes_sent_ = 0;
};

/// A world of one rank, which has nobody to send to.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace nibble
