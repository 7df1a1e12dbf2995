// Saving a checkpoint: every rank writes its file, the first rank makes a checkpoint of them.
//
// Nothing here communicates. The first rank begins; then every rank writes its file; then the first rank, which has
// gathered what they wrote, commits. Until then the checkpoint has a temporary name and nobody takes it for one:
//
//   first rank   begin_checkpoint(run, step, state)
//   every rank   RankFile file = write_rank_file(saving_path(run, step), rank, ranks, state)
//   first rank   commit_checkpoint(run, header, files)        or, when a rank failed: abandon_checkpoint(run, step)
//
// Not for: reading (checkpoint_load.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "tensor/state.hpp"
#include "trainer/manifest.hpp"

namespace nibble {

/// Elements [first, first + count) of a logical tensor, row-major.
struct Share {
  int64_t first = 0, count = 0;
};

/// What `rank` of `ranks` writes of an entry: its run, or of a replicated tensor about 1 / ranks, cut at multiples of
/// 4096 elements; the first rank writes the small ones.
Share share_of(const StateList::Entry& entry, int rank, int ranks);

/// RUN/checkpoints/.step_00000500.saving: the checkpoint before it is one. The same on every rank.
std::filesystem::path saving_path(const std::filesystem::path& run_directory, int64_t step);

/// Removes what killed saves have left and makes the empty folder. One run at a time saves into a directory.
/// Throws Error{resource}, also when the disk has no room for the whole state.
void begin_checkpoint(const std::filesystem::path& run_directory, int64_t step, const StateList& state);

/// Writes this rank's share of the state and flushes it to the disk.
/// Throws Error{resource} when the disk is or gets full, or the folder is not there.
RankFile write_rank_file(const std::filesystem::path& folder, int rank, int ranks, const StateList& state);

/// Adds the tokenizer's model and the manifest, and gives the checkpoint its name, in place of one of the same step.
/// `files` by rank. Returns the checkpoint's path. Throws Error{resource}, also where the files are not as the ranks
/// wrote them; Error{internal} when the ranks' pieces are not the whole state.
std::filesystem::path commit_checkpoint(const std::filesystem::path& run_directory, const CheckpointHeader& header,
                                        std::span<const RankFile> files);

/// Removes what was written of a checkpoint that is given up. The older ones are as they were.
void abandon_checkpoint(const std::filesystem::path& run_directory, int64_t step) noexcept;

/// All of this on a single rank; gives the checkpoint up when it throws.
std::filesystem::path save_checkpoint(const std::filesystem::path& run_directory, const CheckpointHeader& header,
                                      const StateList& state);

}  // namespace nibble
