// The threads of a block, as fibers of the host thread that runs it.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "tensor/cuda/emulation/launch.hpp"
#include "tensor/cuda/emulation/watch.hpp"

namespace nibble::cuda::emulation {

/// Runs blocks one after the other; the fibers are kept from each to the next.
class Block {
 public:
  /// The block of this host thread.
  static Block& own();

  /// Runs `thread` as each of the block's threads, with so much memory in common, which begins as NaN. Throws what a
  /// thread throws, and Error{internal} for threads of a warp that do not wait for each other in the same place.
  void run(const dim3& number, const dim3& threads, size_t shared_bytes, const std::function<void()>& thread);

  // Of the fiber that runs.
  void wait_for_block() { give_turn(State::at_block); }
  void wait_for_warp() { give_turn(State::at_warp); }
  Slot* exchange_slots();
  std::byte* memory() { return memory_.data() + margin_bytes; }
  void order_lanes() {
    wait_for_warp();
    ++running_->turn.warp_phase;
  }
  void begin_kernel() { running_->turn.in_kernel = true; }
  void copy_later(void* to, const void* from, size_t bytes);
  void commit_copies() { ++running_->groups; }
  void wait_for_copies(unsigned groups_that_may_be_missing);

 private:
  enum class State { ready, at_block, at_warp, finished };
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    unsigned group;  ///< its number
  };
  struct Thread {
    boost::context::fiber fiber{}, caller{};
    State state = State::ready;
    Position position{};
    unsigned exchanges = 0;      ///< of values in its warp, so far
    std::vector<Copy> copies{};  ///< that nobody has waited for
    unsigned groups = 0;         ///< of copies, so far
    Turn turn{};
  };

  boost::context::fiber make_fiber(Thread& thread);
  void give_turn(State state);
  void run_turn(Thread& thread);
  /// Until all its threads wait for the block, or have finished. `when`: which run of a warp it is in this block.
  void run_warp(size_t first, size_t count, uint64_t when);

  std::vector<std::unique_ptr<Thread>> threads_;
  Thread* running_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::byte> memory_, slots_;
  std::exception_ptr failure_;
};

}  // namespace nibble::cuda::emulation
