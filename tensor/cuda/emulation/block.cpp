#include "tensor/cuda/emulation/block.hpp"

#include <algorithm>
#include <boost/context/fixedsize_stack.hpp>
#include <cstring>
#include <utility>

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
  return {std::allocator_arg, boost::context::fixedsize_stack(stack_bytes),
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
  thread.fiber = std::move(thread.fiber).resume();
}

Slot* Block::exchange_slots() {
  // Two sets in turn: whoever is at the next exchange has passed this one's barrier, behind which the slower still
  // read.
  const size_t number = count_of({position.thread.x, 1, 1}) / warp, parity = running_->exchanges++ % 2;
  return reinterpret_cast<Slot*>(slots_.data()) + (2 * number + parity) * warp;
}

void Block::copy_later(void* to, const void* from, size_t bytes) {
  running_->copies.push_back({to, from, bytes, running_->groups});
}

void Block::wait_for_copies(unsigned groups_that_may_be_missing) {
  Thread& thread = *running_;
  std::erase_if(thread.copies, [&](const Copy& copy) {
    if (copy.group + groups_that_may_be_missing >= thread.groups) return false;
    if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
    else std::memset(copy.to, 0, copy.bytes);
    return true;
  });
}

void Block::run_warp(size_t first, size_t count) {
  const auto in_state = [&](State state) {
    return static_cast<size_t>(std::count_if(
        threads_.begin() + static_cast<ptrdiff_t>(first), threads_.begin() + static_cast<ptrdiff_t>(first + count),
        [state](const std::unique_ptr<Thread>& thread) { return thread->state == state; }));
  };
  while (!failure_) {
    for (size_t i = first; i < first + count; ++i)
      if (threads_[i]->state == State::ready) run_turn(*threads_[i]);
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
  const size_t count = count_of(threads);
  while (threads_.size() < count) {
    Thread& made = *threads_.emplace_back(std::make_unique<Thread>());
    made.fiber = make_fiber(made);
  }
  memory_.assign(shared_bytes, std::byte{0xff});
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
      }
  try {
    bool waits = true;
    while (waits && !failure_) {
      waits = false;
      for (size_t first = 0; first < count; first += warp) run_warp(first, std::min(warp, count - first));
      for (i = 0; i < count; ++i) {
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
std::byte* block_memory() { return Block::own().memory(); }
void copy_later(void* to, const void* from, size_t bytes) { Block::own().copy_later(to, from, bytes); }
void commit_copies() { Block::own().commit_copies(); }
void wait_for_copies(unsigned groups_that_may_be_missing) { Block::own().wait_for_copies(groups_that_may_be_missing); }

}  // namespace nibble::cuda::emulation
