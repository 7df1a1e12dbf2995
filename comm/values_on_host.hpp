// Values of a device's memory in the host's, for what is computed there, and back.
//
// Not for: messages, which communicators stage themselves (device_communicator.hpp).
#pragma once

#include <span>

#include "comm/communicator.hpp"
#include "comm/pieces.hpp"
#include "comm/pinned_memory.hpp"
#include "comm/wire_work.hpp"

namespace nibble {

/// Pinned memory that grows with what is fetched into it; what it holds lasts until the next fetch or take.
class ValuesOnHost {
 public:
  /// So that the memory is there before the first fetch.
  void reserve(int64_t elements) {
    const size_t bytes = static_cast<size_t>(elements) * sizeof(float);
    if (memory_.bytes() >= bytes) return;
    memory_ = {};
    memory_ = PinnedMemory(bytes);
  }

  /// To be overwritten.
  std::span<float> take(int64_t elements) {
    reserve(elements);
    const size_t bytes = static_cast<size_t>(elements) * sizeof(float);
    return {reinterpret_cast<float*>(memory_.first(bytes).data()), static_cast<size_t>(elements)};
  }

  /// f32 values of a device's memory, packed, behind what the communicator's stream had to do. Waits for them.
  std::span<float> fetch(Communicator& ranks, const Pieces& values) {
    const std::span<float> here = take(static_cast<int64_t>(bytes_of(values) / sizeof(float)));
    WireWork(ranks).pack(values, 0, std::as_writable_bytes(here));
    ranks.wait();
    return here;
  }

 private:
  PinnedMemory memory_;
};

}  // namespace nibble
