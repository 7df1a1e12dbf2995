// What the emulation tells a program that checks every access of its kernels (tensor/cuda/racecheck); in others these
// functions are null.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nibble::cuda::emulation {

/// A thread of a block, while it runs.
struct Turn {
  unsigned block = 0, thread = 0;  ///< numbers in their grid and block
  unsigned phase = 0;              ///< barriers that the block has passed
  unsigned warp_phase = 0;         ///< calls of order_lanes()
  bool in_kernel = false;          ///< behind what the emulation itself does to get there
  std::span<const std::byte> stack{}, block_memory{}, slots{};
  std::vector<uintptr_t> calls{};  ///< kept by whoever watches: where the functions that run were called
};

/// A grid begins, one block after the other.
[[gnu::weak]] void watch_grid(const void* kernel);
/// It has ended. Throws what was found.
[[gnu::weak]] void judge_grid();
/// From now on `turn` runs; null: none does.
[[gnu::weak]] void watch_turn(Turn* turn);
/// The thread that runs copies, at some time between this call and another one that says the same.
[[gnu::weak]] void watch_copy(const void* to, const void* from, size_t bytes);

inline bool watched() { return watch_grid != nullptr; }

/// Bytes around the block's memory that belong to nobody.
inline constexpr size_t margin_bytes = 1024;

/// Memory of a device as it was asked for, which ends before its last page does; none where `address` is in none.
std::span<const std::byte> allocation_at(const void* address);

}  // namespace nibble::cuda::emulation
