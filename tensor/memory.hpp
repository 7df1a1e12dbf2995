// The ledger of memory: how many bytes the buffers of this process hold, where, and what for.
//
// Every Buffer is entered under its purpose when it is made, whether its pages were touched yet or not; so the table
// of a run is known as soon as its parts exist, before the first step needs the memory.
// Not for: what the machine has (trainer/memory.hpp), nor for memory that is no Buffer.
#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <string>

#include "tensor/place.hpp"

namespace nibble {

/// Bytes by purpose.
using MemoryTable = std::map<std::string, size_t>;

size_t total(const MemoryTable& table);

/// What all buffers hold now; purposes that hold nothing are left out. Safe in any thread.
MemoryTable held_memory(Place place = Place::host);

/// What is held now beyond `before`; purposes that hold no more than then are left out.
MemoryTable held_memory_since(const MemoryTable& before, Place place = Place::host);

/// The bytes of one purpose, kept up to date by the buffers themselves. Lives as long as the process.
using MemoryAccount = std::atomic<size_t>;

/// An empty purpose is "other".
MemoryAccount& memory_account(const std::string& purpose, Place place = Place::host);

}  // namespace nibble
