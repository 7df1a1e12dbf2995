// The ledger of a sweep: which process works on which task, and what came of it.
//
// Each task has a log: a folder of entries LEDGER/TASK/00000001, 00000002 ... Entries are written whole, get their
// names by link(2), and are never changed or removed; an entry's number is the token of whoever wrote it. Everything
// that happens to a task (claimed, renewed before a checkpoint, given back, failed, finished) is the entry behind the
// last, which only one process can write, so a process that sees less than there is (a cache of NFS, an old listing)
// loses time and nothing else. A claim ends with its process, where that can be told, or when its holder has made no
// progress for as long as it said, by the observer's own steady clock; times of other hosts are never looked at. Not
// for: what the tasks are (sweep_plan.hpp), runs outside of sweeps (run_lock.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tensor/error.hpp"
#include "trainer/run_lock_holder.hpp"

namespace nibble {

/// What the ledger asks of the machine; tests put old listings and other clocks in its place.
struct LedgerSystem {
  /// Seconds of this process's steady clock.
  std::function<double()> now;
  /// A folder's entries; none when it is not there.
  std::function<std::vector<std::filesystem::path>(const std::filesystem::path&)> list;
  /// A file; none when it is not there.
  std::function<std::optional<std::string>(const std::filesystem::path&)> read;
};
LedgerSystem machine_of_ledger();

struct LedgerOptions {
  LedgerSystem system = machine_of_ledger();
  double lease = 120;  ///< seconds without progress after which a claim ends
  double start = 600;  ///< the same before a task's first progress: data, checkpoint and model are read
};

struct LedgerEntry {
  enum class Kind { claimed, renewed, released, failed, finished };
  int64_t number = 0;
  Kind kind = Kind::claimed;
  RunLockHolder holder;
  int64_t claim = 0;             ///< the number of the claim that the entry belongs to
  int64_t failures = 0;          ///< of the task so far
  std::string message{};         ///< of a failure
  int64_t exit_code = 0;         ///< that it would have ended the program with
  std::optional<double> loss{};  ///< of what finished: validation, nats per token
};

/// How far the holder of a claim says that it is.
struct LedgerProgress {
  int64_t step = 0;
  std::optional<double> loss{}, seconds_left{};
};

class SweepLedger;

/// A task that this process works on.
class SweepClaim {
 public:
  ~SweepClaim();  ///< gives it back unless it has ended
  SweepClaim(const SweepClaim&) = delete;
  SweepClaim& operator=(const SweepClaim&) = delete;

  const std::string& task() const { return task_; }
  int64_t failures() const { return failures_; }
  /// Before anything in the run's directory is replaced; by any thread.
  /// Throws Error{configuration} when another process has taken over, Error{resource} when that cannot be asked.
  void renew();
  /// Progress, which keeps the claim.
  void progress(const LedgerProgress& progress);
  /// Each ends the claim, or throws as renew.
  void finish(std::optional<double> loss);
  void fail(const Error& error);
  void release();
  /// Another process has taken over: it was told so by one of the above.
  bool lost() const;

 private:
  friend class SweepLedger;
  SweepClaim(SweepLedger& ledger, std::string task, int64_t number, int64_t failures);
  void append(LedgerEntry::Kind kind, const Error* failure = nullptr, std::optional<double> loss = {});
  double patience() const;
  void write_progress(const LedgerProgress& progress, double patience, int flags);

  SweepLedger& ledger_;
  std::string task_;
  int64_t claim_, failures_;
  int64_t beats_ = 0;
  std::optional<LedgerProgress> last_{};
  double last_beat_, last_written_, longest_ = 0;
  mutable std::mutex mutex_;
  int64_t number_;
  bool ended_ = false, lost_ = false;
};

class SweepLedger {
 public:
  explicit SweepLedger(std::filesystem::path directory, LedgerOptions options = {});

  /// What the ledger's first process has said that the sweep is: `text`, if this is the first.
  std::string agree_on(const std::string& text);
  /// The same without saying anything; none where nobody has.
  std::optional<std::string> agreed() const;

  /// The last entry of the task's log, as far as it is seen; none for one that nobody has touched.
  std::optional<LedgerEntry> look(const std::string& task);
  /// Whether the task has ended: finished, or failed as often as it is tried.
  bool has_ended(const LedgerEntry& entry) const;
  /// What its holder has last said.
  std::optional<LedgerProgress> progress_of(const std::string& task, const LedgerEntry& entry) const;
  /// Whether the holder's process is known to be gone.
  bool is_orphaned(const LedgerEntry& entry) const;

  /// The task, if it is free now: nobody has it, or who had it is gone or has made no progress since this process
  /// began to watch, for as long as a claim lasts. Null where it is not, or another process was faster.
  std::unique_ptr<SweepClaim> claim(const std::string& task);

 private:
  friend class SweepClaim;
  struct Watch {
    int64_t number = 0;
    std::string beat;
    double since = 0;
  };

  std::filesystem::path folder(const std::string& task) const { return directory_ / task; }
  std::filesystem::path beat_path(const std::string& task, int64_t claim) const;
  /// Writes the entry under its number. False where there is one of that number already.
  bool append(const std::string& task, const LedgerEntry& entry);
  bool link_text(const std::filesystem::path& path, const std::string& text);
  bool has_lapsed(const std::string& task, const LedgerEntry& entry);

  std::filesystem::path directory_;
  LedgerOptions options_;
  RunLockHolder self_;
  std::mutex mutex_;  ///< of the count
  int64_t prepared_ = 0;
  std::map<std::string, LedgerEntry> seen_;
  std::map<std::string, Watch> watched_;
};

}  // namespace nibble
