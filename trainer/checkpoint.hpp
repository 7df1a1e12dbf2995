// Checkpoints: RUN/checkpoints/step_00000500 with each rank's state (HDF5) and a manifest.
//
// A checkpoint is there whole or not at all, and nothing of it is opened before its size and checksum were verified.
// Not for: finding the model that a user named (run_directory.hpp), or models of other programs (huggingface.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model/parameters.hpp"
#include "tensor/state.hpp"
#include "trainer/manifest.hpp"

namespace nibble {

/// Entries of the state list whose names start so are the fp32 master weights: "weights/model.norm.weight".
inline constexpr const char* weights_prefix = "weights/";

/// RUN/checkpoints/step_00000500
std::filesystem::path checkpoint_path(const std::filesystem::path& run_directory, int64_t step);

/// Writes the checkpoint of header.step, replacing one of the same step, and removes what killed saves have left.
/// One process at a time saves into a run. Returns the checkpoint's path.
/// Throws Error{resource} when the disk is or gets full; the older checkpoints are then unchanged.
std::filesystem::path save_checkpoint(const std::filesystem::path& run_directory, const CheckpointHeader& header,
                                      const StateList& state);

/// Throws Error{checkpoint} as read_manifest does. Does not verify the files of state.
CheckpointHeader read_checkpoint_header(const std::filesystem::path& checkpoint);

/// Fills every entry of `state`. All is verified before the first is touched.
/// Throws Error{checkpoint}: no checkpoint, damaged, or entries that are missing, left over, of another element type or
/// of another shape than in `state`.
void load_checkpoint(const std::filesystem::path& checkpoint, StateList& state);

/// Fills `into` (f32, or bf16 rounded to nearest even) from the master weights alone.
/// Throws Error{checkpoint} as load_checkpoint.
void load_checkpoint_weights(const std::filesystem::path& checkpoint, const ParameterLayout& layout,
                             ParameterSet& into);

/// The steps of a run's checkpoints, ascending, valid or not; empty when there is none.
std::vector<int64_t> list_checkpoints(const std::filesystem::path& run_directory);

struct RefusedCheckpoint {
  std::filesystem::path path;
  std::string reason;
};

/// The newest checkpoint whose manifest, sizes and checksums are right; newer ones that are not go to `refused`.
std::optional<std::filesystem::path> newest_valid_checkpoint(const std::filesystem::path& run_directory,
                                                             std::vector<RefusedCheckpoint>& refused);

/// Removes old checkpoints after a new one is in place. The newest `keep` stay (0: all), and those whose step is a
/// multiple of `keep_every` (0: none). Damaged ones are neither counted nor removed.
void prune_checkpoints(const std::filesystem::path& run_directory, int64_t keep, int64_t keep_every);

}  // namespace nibble
