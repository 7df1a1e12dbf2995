// One process at a time in a run's directory: two would mix their metrics and remove each other's half-written saves.
//
// The lock is a file that names its holder and that the holder rewrites with every heartbeat; so it works between
// machines that share a network file system, where the kernel's own locks often do not. Locks are numbered
// (RUN/.lock.00000001 ...) and the highest one holds: who takes over from a dead process makes the next one, which only
// one of several can. A holder that was thought dead (stopped, cut off) finds that out before it commits anything.
// Not for: the ranks of one run, of which the first alone holds the lock.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "trainer/run_lock_holder.hpp"

namespace nibble {

struct RunLockOptions {
  std::chrono::milliseconds heartbeat = std::chrono::seconds(10);
  /// Tells the user why nothing happens while another holder's heartbeats are waited for.
  std::function<void(const std::string&)> message = [](const std::string&) {};
};

class RunLock {
 public:
  /// Takes the lock of RUN; the folder must exist. A holder that is gone is followed at once where that can be told,
  /// else when its heartbeat has not changed for three intervals of this process's clock. Throws Error{configuration}
  /// naming the holder when it lives, Error{resource} when the file cannot be written.
  explicit RunLock(const std::filesystem::path& run_directory, const RunLockOptions& options = {});
  /// Releases it, if it is still held.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  /// Reads the lock again: before anything in the run's directory is replaced or removed.
  /// Throws Error{configuration} when another process has taken over, Error{resource} when that cannot be read.
  void still_held() const;

 private:
  /// Whether the lock of that number may be followed by the next one, after waiting for a sign of life of its holder;
  /// not when it has changed meanwhile. Throws Error{configuration} when the holder lives.
  bool may_follow(int64_t number) const;
  bool take(int64_t number);
  bool is_own_file() const;
  void remove_older() const;
  void beat();

  std::filesystem::path directory_;
  RunLockOptions options_;
  RunLockHolder self_;
  int64_t number_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::thread heart_;
};

}  // namespace nibble
