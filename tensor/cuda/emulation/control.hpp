// What tests make of the emulated device.
#pragma once

#include <cstddef>

namespace nibble::cuda::emulation {

/// Whether devices() finds it.
void set_present(bool present);
/// What it has.
void limit_memory(size_t bytes);
/// What its blocks have at most; compute capability 9.0 has the usual.
inline constexpr size_t usual_block_memory = 232448;
void limit_block_memory(size_t bytes);

}  // namespace nibble::cuda::emulation
