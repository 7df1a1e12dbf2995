// Memory that sums take in turns, made for the largest of them before the first.
//
// Not for: scratch of f32 elements (SumScratch), memory that grows between sums (Communicator::staging).
#pragma once

#include <cstddef>

#include "comm/pinned_memory.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// At least so many bytes of a device; what it held is gone where it grows. The old memory is given back first, so that
/// both never are there at a time.
inline void reserve(Buffer& memory, size_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = {};
  memory = Buffer(bytes, "communication", Place::device);
}
/// The same of the host's, pinned.
inline void reserve(PinnedMemory& memory, size_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = {};
  memory = PinnedMemory(bytes);
}

}  // namespace nibble
