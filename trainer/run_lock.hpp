// One process at a time in a run's directory: two would mix their metrics and remove each other's half-written saves.
//
// The lock is the kernel's (flock), so it goes with the process that held it, however that ended; the file stays.
// Not for network file systems, some of which keep such locks on each machine alone.
#pragma once

#include <filesystem>

namespace nibble {

class RunLock {
 public:
  /// Locks RUN/.lock, whose text then names this process; the folder must exist.
  /// Throws Error{configuration} naming the holder when another process (or object) has it, Error{resource} when the
  /// file cannot be written.
  explicit RunLock(const std::filesystem::path& run_directory);
  /// Releases it.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace nibble
