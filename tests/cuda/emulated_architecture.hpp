// An emulated device of another architecture, while it lives.
#pragma once

#include "tensor/cuda/emulation/control.hpp"

namespace nibble::testing {

inline constexpr int hopper = 90, blackwell = 100;

/// Streams that begin meanwhile see it. A GPU is what it is.
class Architecture {
 public:
  explicit Architecture(int architecture) { set(architecture); }
  ~Architecture() { set(cuda::emulation::usual_architecture); }
  Architecture(const Architecture&) = delete;
  Architecture& operator=(const Architecture&) = delete;

 private:
  static void set(int architecture) {
    if (cuda::emulation::linked()) cuda::emulation::set_architecture(architecture);
  }
};

}  // namespace nibble::testing
