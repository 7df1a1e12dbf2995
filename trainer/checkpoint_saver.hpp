// The checkpoints of a run, saved by all of its ranks while training goes on.
//
// What one rank cannot do, no rank has done: a failure on any of them is thrown on all, and the older checkpoints stay.
// Every rank calls start, advance and finish at the same places; in between each looks whether it is idle, and the
// ranks go on when all are (they agree on that with whatever they exchange at the end of a step). Not for: the files
// (checkpoint_save.hpp), the snapshot and its threads (background_save.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "trainer/background_save.hpp"
#include "trainer/manifest.hpp"

namespace nibble {

struct CheckpointSaverOptions {
  std::filesystem::path run_directory;
  int rank = 0, ranks = 1;
  int64_t keep = 1, keep_every = 0;  ///< as prune_checkpoints
  std::vector<int64_t> kept_steps{};
  bool background = true;  ///< from a snapshot, which takes memory; else training waits for the whole save
  /// Every rank's text, by rank. A single rank needs none.
  std::function<std::vector<std::string>(const std::string& mine)> gather = [](const std::string& mine) {
    return std::vector{mine};
  };
  /// On the first rank, before a save begins and before it is committed: throws when the directory has another owner.
  std::function<void()> require_ownership = [] {};
};

class CheckpointSaver {
 public:
  /// Takes the snapshot's memory (in the ledger: "checkpoint snapshot") for a state like this one.
  CheckpointSaver(CheckpointSaverOptions options, const StateList& state);

  /// Begins the checkpoint of header.step; `state` may change when this returns. Finishes the save before, if it is
  /// under way; without a background finishes this one, too.
  /// Throws, on every rank, what the first failing rank met; nothing is under way then.
  void start(Stream& stream, const CheckpointHeader& header, const StateList& state);

  /// The same on all ranks.
  bool under_way() const { return stage_ != Stage::none; }
  /// Whether this rank would go on without waiting.
  bool idle() const { return !background_ || background_->idle(); }
  /// Goes on with the save that is under way: to the commit, then to its end. Returns the step whose checkpoint is now
  /// in place. Throws as start.
  std::optional<int64_t> advance();
  /// Goes on to the end, if a save is under way. Throws as start.
  void finish();

 private:
  enum class Stage { none, writing, committing };

  bool is_first() const { return options_.rank == 0; }
  /// What `work` says on every rank. When it throws on one, the save is given up on all of them.
  std::vector<std::string> agree(const std::function<std::string()>& work);
  void commit(const std::vector<std::string>& files) const;

  CheckpointSaverOptions options_;
  CheckpointHeader header_;
  Stage stage_ = Stage::none;
  std::optional<BackgroundSave> background_;  ///< last: its threads use the others
};

}  // namespace nibble
