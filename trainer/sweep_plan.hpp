// The runs of a sweep, with their names and settings, and the tasks that processes take one by one.
//
// A run is one task; a trunk, and a run under successive halving, is several, one behind the other, each of which ends
// at a step with a validation and a checkpoint.
// Not for: reading the file (sweep_file.hpp), who does which task (sweep_ledger.hpp), what has become of them
// (sweep_state.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/settings.hpp"
#include "trainer/sweep_file.hpp"

namespace nibble {

struct SweepRun {
  enum class Role { point, twin, trunk };
  std::string name;  ///< of its folder below the sweep's directory
  Role role = Role::point;
  Settings settings;
  int64_t steps = 0;                  ///< in all, a trunk's included
  std::optional<size_t> trunk{};      ///< the run whose state this one begins with
  int64_t first_step = 0;             ///< at which it leaves its trunk
  std::vector<int64_t> kept_steps{};  ///< of a trunk: where others leave it
  std::optional<size_t> twin{};       ///< the bf16 run of the same data and seed
  /// What the axes set: keys and values as the file has them.
  std::vector<std::pair<std::string, std::string>> assignments{};

  const char* role_name() const { return role == Role::trunk ? "trunk" : role == Role::twin ? "twin" : "run"; }
};

struct SweepTask {
  std::string id;  ///< of its folder in the ledger
  size_t run = 0;
  int64_t until = 0;              ///< the step at which it ends
  std::optional<size_t> after{};  ///< the task that must have finished before
  size_t rung = 0;                ///< of halving: all runs' tasks of the rung before have ended, and this run went on
};

struct SweepPlan {
  std::filesystem::path directory;
  std::vector<SweepRun> runs;    ///< trunks behind the others
  std::vector<SweepTask> tasks;  ///< in the order in which they are taken
  size_t rungs = 0;              ///< of halving
  double keep = 1;

  /// How many of the runs that were on a rung go on to the next.
  size_t going_on(size_t on_rung) const;
  std::filesystem::path ledger() const { return directory / "ledger"; }
};

/// Opens token files where the length of a run or the model's shape depends on them.
/// Throws Error{configuration}: runs that contradict themselves (the name is in `where`), two runs with one name or the
/// same settings, more than 10000, a trunk whose branches would not be the runs that they stand for.
SweepPlan plan_sweep(const SweepFile& file);

/// The settings without where and how fast: what two runs must share to be the same.
Settings without_place(Settings settings);

}  // namespace nibble
