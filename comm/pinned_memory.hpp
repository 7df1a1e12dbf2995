// Host memory that queues of a device copy from and to without a detour, and without making the host wait.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "tensor/cuda/device.hpp"

namespace nibble {

class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t bytes) : memory_(static_cast<std::byte*>(cuda::allocate_pinned(bytes))), bytes_(bytes) {}

  std::span<std::byte> first(size_t bytes) const { return {memory_.get(), bytes}; }
  size_t bytes() const { return bytes_; }

 private:
  struct Release {
    void operator()(std::byte* memory) const { cuda::release_pinned(memory); }
  };
  std::unique_ptr<std::byte, Release> memory_;
  size_t bytes_ = 0;
};

}  // namespace nibble
