// What this process holds of the machine's memory, and what is left for it.
//
// Not for: what a run is going to take (trainer/run_memory.hpp).
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace nibble {

/// Bytes of this process that lie in memory now, and the most that ever did.
struct ResidentMemory {
  size_t all = 0;        ///< the resident set
  size_t anonymous = 0;  ///< without pages of mapped files, which the system takes back where memory is short
  size_t peak = 0;       ///< of the resident set
};

/// From /proc/self/status.
ResidentMemory resident_memory();

/// What this process can take beyond what it holds, and who sets that limit.
struct AvailableMemory {
  size_t bytes = 0;
  std::string limit;  ///< the file that says so: "/proc/meminfo"
};

/// The least of the system's available memory and of what each control group that the process is in (versions 1 and 2,
/// with the groups above) leaves it; file pages that the kernel can drop count as available. Swap does not: a run that
/// swaps does not end. `root` holds proc/ and sys/; another one than "/" is for tests.
AvailableMemory available_memory(const std::filesystem::path& root = "/");

/// 1932735283 -> "1.80 GiB", 5767168 -> "5.5 MiB".
std::string format_bytes(size_t bytes);

}  // namespace nibble
