// What tests make of the emulated device; on a GPU there is nothing of it.
#pragma once

#include <cstddef>

namespace nibble::cuda::emulation {

/// Whether devices() finds it.
[[gnu::weak]] void set_present(bool present);
/// What it has.
[[gnu::weak]] void limit_memory(size_t bytes);
/// What its blocks have at most; compute capability 9.0 has the usual.
inline constexpr size_t usual_block_memory = 232448;
[[gnu::weak]] void limit_block_memory(size_t bytes);

inline bool linked() { return set_present != nullptr; }

}  // namespace nibble::cuda::emulation
