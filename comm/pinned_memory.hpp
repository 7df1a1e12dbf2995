// Host memory that queues of a device copy from and to without a detour, and without making the host wait.
#pragma once

#include <cstddef>
#include <span>

#include "tensor/pinned_arena.hpp"

namespace nibble {

/// In the ledger (tensor/memory.hpp) under "communication".
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t bytes)
      : arena_("communication",
               [&](PinnedArena& arena) { memory_ = arena.take_packed(DType::u8, 1, static_cast<int64_t>(bytes)); }) {}

  std::span<std::byte> first(size_t bytes) const { return {static_cast<std::byte*>(memory_.data), bytes}; }
  size_t bytes() const { return memory_.bytes(); }

 private:
  Tensor memory_;
  PinnedArena arena_;
};

}  // namespace nibble
