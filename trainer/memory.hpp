// What this process holds of the machine's memory, what is left for it, and the refusal of what does not fit.
//
// Linux gives addresses without memory behind them and kills a process that then touches too many of them; so work is
// weighed when its buffers are there, before they are written.
// Not for: what a run is going to take (trainer/run_memory.hpp).
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tensor/memory.hpp"

namespace nibble {

/// Bytes of this process that lie in memory now, and the most that ever did.
struct ResidentMemory {
  size_t all = 0;        ///< the resident set
  size_t anonymous = 0;  ///< without pages of mapped files, which the system takes back where memory is short
  size_t peak = 0;       ///< of the resident set
};

/// From /proc/self/status.
ResidentMemory resident_memory();

/// What a process can take, and who sets that limit.
struct AvailableMemory {
  size_t bytes = 0;
  std::string limit;  ///< the file that says so: "/proc/meminfo"
};

/// What this process can take beyond what it holds: the least of the system's available memory and of what each control
/// group that the process is in (versions 1 and 2, with the groups above) leaves it; file pages that the kernel can
/// drop count as available. Swap does not: a run that swaps does not end. `root` holds proc/ and sys/; another one than
/// "/" is for tests.
AvailableMemory available_memory(const std::filesystem::path& root = "/");

/// 1932735283 -> "1.80 GiB", 5767168 -> "5.5 MiB".
std::string format_bytes(size_t bytes);

using MemoryRows = std::vector<std::pair<std::string, size_t>>;
MemoryRows largest_first(const MemoryTable& table);

/// Throws Error{resource} that shows the largest rows and `most`, if the table's sum is above it. `next` gives the text
/// of what to try.
void require_fits(const std::string& what, const MemoryTable& table, const AvailableMemory& most,
                  const std::function<std::string()>& next);

/// Throws Error{resource} if all buffers of the process, written or not, hold more than it can get: for commands that
/// have their buffers at once.
void require_held_memory();

}  // namespace nibble
