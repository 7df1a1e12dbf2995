// What tests make of the emulated devices; on a GPU there is nothing of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "tensor/cuda/device.hpp"

namespace nibble::cuda::emulation {

/// How many devices() finds; one at first.
[[gnu::weak]] void set_devices(int count);
/// What they have together.
[[gnu::weak]] void limit_memory(size_t bytes);
/// What its blocks have at most; compute capability 9.0 has the usual.
inline constexpr size_t usual_block_memory = 232448;
[[gnu::weak]] void limit_block_memory(size_t bytes);
/// What its devices are, compute capability 9.0 at first: streams that begin afterwards see it.
inline constexpr int usual_architecture = 90;
[[gnu::weak]] void set_architecture(int architecture);
int architecture();
/// The seed of the orders in which blocks, warps and lanes run wherever a GPU promises none: 0: ascending, 1:
/// descending, else drawn. At first it is what the environment's NIBBLE_EMULATION_ORDER says, or 2.
[[gnu::weak]] void set_order(uint64_t seed);
uint64_t order_seed();
/// Graphs that a queue was given so far.
[[gnu::weak]] uint64_t graphs_queued(const Queue& queue);
/// Milliseconds that a queue's work took so far: those that a library's double says that its calls take.
double& milliseconds_worked(Queue& queue);

/// What the double of cuBLASLt was asked for; weak, for without the library's header there is none.
struct LibraryUse {
  int choices = 0;         ///< calls of the heuristic
  int codes = 0;           ///< products of FP8 and FP4
  int under_vectors = 0;   ///< of these, scaled by rows and columns
  uint32_t algorithm = 0;  ///< of the last product
  uint32_t refused = 0;    ///< an algorithm that it does not have, as another version would not; 0: none
  bool refuses_vectors = false;
  bool proposes_in_vain = false;  ///< under scales of rows and columns, what it does not multiply then
  size_t version = 0;             ///< that it says it is; 0: the header's
};
[[gnu::weak]] LibraryUse& library_use();

inline bool linked() { return set_devices != nullptr; }

/// What the calling thread has selected.
int selected_device();
/// Whose memory these bytes are; -1: no device's.
int device_of(const void* memory, size_t bytes);
int device_of(const Queue& queue);

/// Queues what depends on others: it is tried again and again until it returns true, and what is behind it waits.
void queue_attempts(Queue& queue, std::function<bool()> attempt);

}  // namespace nibble::cuda::emulation
