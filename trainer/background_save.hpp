// Saving while training goes on: the state is copied, and a thread writes the copy.
//
// A save of many ranks needs their agreement twice, once before it is committed and once to know how it ended; so the
// owner is told when a thread is done and says what comes next:
//
//   save.start(stream, state, saving_path(run, step));        // training waits for the copy alone
//   if (save.idle()) file = save.take_file();                 // at the end of a later step; then the ranks gather
//   save.commit([=] { commit_checkpoint(run, header, files); prune_checkpoints(run, keep, keep_every); });
//   if (save.idle()) save.finish();
//
// Not for: what is written (checkpoint_save.hpp), for saves that training waits for.
#pragma once

#include <filesystem>
#include <functional>
#include <future>

#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "trainer/checkpoint_save.hpp"

namespace nibble {

class BackgroundSave {
 public:
  /// Takes memory (in the ledger: "checkpoint snapshot") for what `rank` of `ranks` writes of a state like this one.
  BackgroundSave(const StateList& state, int rank, int ranks);
  /// Waits for what is under way, whose error nobody hears then.
  ~BackgroundSave() = default;
  BackgroundSave(const BackgroundSave&) = delete;
  BackgroundSave& operator=(const BackgroundSave&) = delete;

  /// Copies the state, which may change when this returns, and starts to write the copy into `folder`.
  /// `state` has the same entries as at construction. Only after the save before was taken and finished.
  void start(Stream& stream, const StateList& state, const std::filesystem::path& folder);
  /// What was written. Waits for it; throws what write_rank_file threw.
  RankFile take_file();

  /// Starts `work` on a thread.
  void commit(std::function<void()> work);
  /// Waits for that; throws what it threw.
  void finish();

  /// Whether a save is under way: started and not taken, or committing and not finished.
  bool under_way() const { return writing_.valid() || committing_.valid(); }
  /// Whether no thread is at work: take_file or finish would not wait.
  bool idle() const;

 private:
  int rank_, ranks_;
  Buffer memory_;
  StateList snapshot_;  ///< runs in memory_
  // Last, so that they go first: whoever destroys such a future waits for its thread.
  std::future<RankFile> writing_;
  std::future<void> committing_;
};

}  // namespace nibble
