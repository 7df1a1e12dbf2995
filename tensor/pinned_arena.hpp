// Pinned memory of the host, which queues of a device copy from and to without a detour, laid out as an arena is
// (tensor.hpp): of one lifetime, measured before it is taken, zero, and in the ledger under the host.
//
// Not for: messages between ranks (comm/pinned_memory.hpp).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "tensor/tensor.hpp"

namespace nibble {

class PinnedArena {
 public:
  PinnedArena() = default;
  /// Throws Error{resource} where there is no memory left.
  template <class Layout>
  PinnedArena(const std::string& purpose, Layout&& layout) {
    layout(*this);
    allocate(std::exchange(used_, 0), purpose);
    layout(*this);
  }
  PinnedArena(PinnedArena&&) = default;
  PinnedArena& operator=(PinnedArena&&) = default;

  /// A matrix of the host without paddings, which begins on a 64-byte boundary. While measuring, its data is null.
  Tensor take_packed(DType type, int64_t rows, int64_t cols) {
    const size_t offset = used_;
    used_ += (bytes_of(type, rows, cols) + alignment - 1) / alignment * alignment;
    return {type, memory_ ? static_cast<char*>(memory_.get()) + offset : nullptr, rows, cols};
  }

 private:
  struct Release {
    size_t bytes;
    bool imagined;
    MemoryAccount* account;
    void operator()(void* memory) const;
  };

  void allocate(size_t bytes, const std::string& purpose);

  std::unique_ptr<void, Release> memory_;
  size_t used_ = 0;
};

}  // namespace nibble
