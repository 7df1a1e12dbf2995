// An emulated device whose blocks have little memory.
#pragma once

#include "tensor/cuda/emulation/control.hpp"

namespace nibble::testing {

/// While it lives; GPUs have what they have.
class SmallBlocks {
 public:
  explicit SmallBlocks(size_t bytes) { limit(bytes); }
  ~SmallBlocks() { limit(cuda::emulation::usual_block_memory); }
  static void limit(size_t bytes) {
    if (cuda::emulation::linked()) cuda::emulation::limit_block_memory(bytes);
  }
  SmallBlocks(const SmallBlocks&) = delete;
  SmallBlocks& operator=(const SmallBlocks&) = delete;
};

}  // namespace nibble::testing
