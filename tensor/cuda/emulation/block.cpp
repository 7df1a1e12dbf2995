#include "tensor/cuda/emulation/block.hpp"

#include <algorithm>
#include <boost/context/fixedsize_stack.hpp>
#include <boost/context/preallocated.hpp>
#include <cstring>
#include <utility>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/emulation/order.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda::emulation {
namespace {

constexpr size_t warp = 32;
constexpr size_t stack_bytes = 128 << 10;

size_t count_of(const dim3& extent) { return size_t{extent.x} * extent.y * extent.z; }

}  // namespace

Block& Block::own() {
  thread_local Block block;
  return block;
}

boost::context::fiber Block::make_fiber(Thread& thread) {
  boost::context::fixedsize_stack memory(stack_bytes);
  const boost::context::stack_context stack = memory.allocate();
  thread.turn.stack = {static_cast<const std::byte*>(stack.sp) - stack.size, stack.size};
  return {std::allocator_arg, boost::context::preallocated(stack.sp, stack.size, stack), memory,
          [this, &thread](boost::context::fiber&& caller) {
            thread.caller = std::move(caller);
            while (true) {
              try {
                (*body_)();
              } catch (const boost::context::detail::forced_unwind&) {
                throw;
              } catch (...) {
                if (!failure_) failure_ = std::current_exception();
              }
              give_turn(State::finished);
            }
            return std::move(thread.caller);
          }};
}

void Block::give_turn(State state) {
  Thread& thread = *running_;
  thread.state = state;
  thread.caller = std::move(thread.caller).resume();
}

void Block::run_turn(Thread& thread) {
  running_ = &thread;
  position = thread.position;
  if (watched()) watch_turn(&thread.turn);
  thread.fiber = std::move(thread.fiber).resume();
  if (watched()) watch_turn(nullptr);
}

Slot* Block::exchange_slots() {
  // Two sets in turn: whoever is at the next exchange has passed this one's barrier, behind which the slower still
  // read.
  const size_t number = count_of({position.thread.x, 1, 1}) / warp, parity = running_->exchanges++ % 2;
  return reinterpret_cast<Slot*>(slots_.data()) + (2 * number + parity) * warp;
}

void Block::copy_later(void* to, const void* from, size_t bytes) {
  if (watched()) watch_copy(to, from, bytes);
  running_->copies.push_back({to, from, bytes, running_->groups});
}

void Block::wait_for_copies(unsigned groups_that_may_be_missing) {
  Thread& thread = *running_;
  std::erase_if(thread.copies, [&](const Copy& copy) {
    if (copy.group + groups_that_may_be_missing >= thread.groups) return false;
    if (watched()) watch_copy(copy.to, copy.from, copy.bytes);
    if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
    else std::memset(copy.to, 0, copy.bytes);
    return true;
  });
}

void Block::run_warp(size_t first, size_t count, uint64_t when) {
  const auto in_state = [&](State state) {
    return static_cast<size_t>(std::count_if(
        threads_.begin() + static_cast<ptrdiff_t>(first), threads_.begin() + static_cast<ptrdiff_t>(first + count),
        [state](const std::unique_ptr<Thread>& thread) { return thread->state == state; }));
  };
  while (!failure_) {
    const Order order(order_seed(), when++, count);
    for (size_t i = 0; i < count; ++i)
      if (Thread& thread = *threads_[first + order[i]]; thread.state == State::ready) run_turn(thread);
    const size_t waiting = in_state(State::at_warp);
    if (waiting == 0 || failure_) return;
    if (waiting < count)
      throw Error({.kind = ErrorKind::internal,
                   .what = "lanes of a warp exchange values that others of it do not give",
                   .where = "emulated block " + std::to_string(position.block.x),
                   .seen = std::to_string(waiting) + " of " + std::to_string(count) + " lanes",
                   .next = "let all lanes of a warp reach of_lane() and over_warp()"});
    for (size_t i = first; i < first + count; ++i) threads_[i]->state = State::ready;
  }
}

void Block::run(const dim3& number, const dim3& threads, size_t shared_bytes, const std::function<void()>& thread) {
  const size_t count = count_of(threads),
               number_in_grid = (size_t{number.z} * grid_size.y + number.y) * grid_size.x + number.x;
  while (threads_.size() < count) {
    Thread& made = *threads_.emplace_back(std::make_unique<Thread>());
    made.fiber = make_fiber(made);
  }
  memory_.assign(shared_bytes + 2 * margin_bytes, std::byte{0xff});
  slots_.resize((count + warp - 1) / warp * 2 * warp * slot_bytes);
  body_ = &thread;
  failure_ = nullptr;
  size_t i = 0;
  for (unsigned z = 0; z < threads.z; ++z)
    for (unsigned y = 0; y < threads.y; ++y)
      for (unsigned x = 0; x < threads.x; ++x, ++i) {
        threads_[i]->state = State::ready;
        threads_[i]->exchanges = 0;
        threads_[i]->copies.clear();
        threads_[i]->groups = 0;
        threads_[i]->position = {{x, y, z}, number};
        Turn& turn = threads_[i]->turn;
        turn.block = static_cast<unsigned>(number_in_grid);
        turn.thread = static_cast<unsigned>(i);
        turn.phase = turn.warp_phase = 0;
        turn.in_kernel = false;
        turn.block_memory = {memory(), shared_bytes};
        turn.slots = slots_;
        turn.calls.clear();
      }
  try {
    bool waits = true;
    uint64_t when = 0;
    while (waits && !failure_) {
      waits = false;
      const Order order(order_seed(), when++, (count + warp - 1) / warp);
      for (i = 0; i < count; i += warp) {
        const size_t first = order[i / warp] * warp;
        run_warp(first, std::min(warp, count - first), when++ << 32);
      }
      for (i = 0; i < count; ++i) {
        ++threads_[i]->turn.phase;
        if (threads_[i]->state != State::at_block) continue;
        threads_[i]->state = State::ready;
        waits = true;
      }
    }
  } catch (...) {
    threads_.clear();  // some of them are in the middle of the kernel
    throw;
  }
  if (!failure_) return;
  threads_.clear();
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

void wait_for_block() { Block::own().wait_for_block(); }
void wait_for_warp() { Block::own().wait_for_warp(); }
Slot* exchange_slots() { return Block::own().exchange_slots(); }
void order_lanes() { Block::own().order_lanes(); }
void begin_kernel() { Block::own().begin_kernel(); }
std::byte* block_memory() { return Block::own().memory(); }
void copy_later(void* to, const void* from, size_t bytes) { Block::own().copy_later(to, from, bytes); }
void commit_copies() { Block::own().commit_copies(); }
void wait_for_copies(unsigned groups_that_may_be_missing) { Block::own().wait_for_copies(groups_that_may_be_missing); }

}  // namespace nibble::cuda::emulation
