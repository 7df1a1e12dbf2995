// Finds in kernels that run on the emulated device what a GPU would punish: for such programs whose kernels were
// compiled so that they say what they touch (instrumentation.cpp).
//
// Accesses of two threads without an order, one of them a write; outside of what was allocated; of addresses that are
// no multiples of what the type wants; reads of a block's memory that its block never wrote. A grid in which there is
// any of these ends with Error{internal}, which names them. Memory of a device is zero at first (device.hpp), so there
// is no reading it too early. Not for: work of several queues without an order, parts of one allocation, host code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibble::cuda::racecheck {

enum class Kind { read, write, atomic };

// All are about the thread that runs, and nothing outside of kernels.

/// It begins a function that was called there, and returns from the newest one.
void enter(const void* called_at);
void leave();
/// It touches these bytes, in code that a call returns to.
void touch(const volatile void* address, size_t bytes, Kind kind, const void* code);
/// It uses what is no multiple of `alignment` as an address of `type`.
void misaligned(uintptr_t address, size_t alignment, const char* type, const void* code);
/// It asks an array for an element that it does not have.
void no_such_element(uint64_t index, const char* array, const void* code);

}  // namespace nibble::cuda::racecheck
