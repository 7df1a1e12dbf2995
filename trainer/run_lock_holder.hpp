// Who holds the lock of a run's directory, as its file says, and what can be told from that about whether it lives.
//
// Clocks of two machines are never compared: times here are for people.
// Not for: taking the lock (run_lock.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

struct RunLockHolder {
  std::string host;
  std::string boot;           ///< of the kernel, a new one with each start
  std::string pid_namespace;  ///< a process number means something only within it
  int64_t process = 0;
  uint64_t process_start = 0;  ///< clock ticks after the boot: a number is given to another process one day
  std::string job;             ///< of Slurm; empty: none
  int64_t job_restarts = 0;    ///< how often Slurm has requeued it
  uint64_t nonce = 0;          ///< of this one lock
  std::string since;           ///< UTC
  uint64_t heartbeats = 0;
  bool released = false;
};

/// This process, now, with a nonce of its own.
RunLockHolder this_run_lock_holder();

/// Always as many bytes, so that a file can be overwritten in place.
std::string to_text(const RunLockHolder& holder);
/// None for any other text.
std::optional<RunLockHolder> parse_run_lock_holder(std::string_view text);

/// "process 123 on node7, job 4711, since 2026-01-31 12:00:00 UTC"
std::string describe(const RunLockHolder& holder);

/// What `self` can tell about a holder without waiting.
enum class Life {
  gone,     ///< it released the lock, its process ended on this machine, or Slurm has started its job again
  alive,    ///< its process runs on this machine
  unknown,  ///< it was on another machine or in another container
};
Life life_of(const RunLockHolder& holder, const RunLockHolder& self);

}  // namespace nibble
