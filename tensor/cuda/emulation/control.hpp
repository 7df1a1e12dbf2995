// What tests make of the emulated device.
#pragma once

#include <cstddef>

namespace nibble::cuda::emulation {

/// Whether devices() finds it.
void set_present(bool present);
/// What it has.
void limit_memory(size_t bytes);

}  // namespace nibble::cuda::emulation
