// Host memory that queues of a device copy from and to without a detour, and without making the host wait.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "tensor/cuda/device.hpp"
#include "tensor/memory.hpp"

namespace nibble {

/// Entered in the ledger (tensor/memory.hpp) under "communication".
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t bytes)
      : memory_(static_cast<std::byte*>(cuda::allocate_pinned(bytes)),
                Release{bytes, &memory_account("communication")}) {
    *memory_.get_deleter().account += bytes;
  }

  std::span<std::byte> first(size_t bytes) const { return {memory_.get(), bytes}; }
  size_t bytes() const { return memory_ ? memory_.get_deleter().bytes : 0; }

 private:
  struct Release {
    size_t bytes;
    MemoryAccount* account;
    void operator()(std::byte* memory) const {
      cuda::release_pinned(memory);
      *account -= bytes;
    }
  };
  std::unique_ptr<std::byte, Release> memory_;
};

}  // namespace nibble
