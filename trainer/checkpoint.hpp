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

/// A checkpoint that was found whole: its bytes are hashed once, whatever is read from it then.
struct VerifiedCheckpoint {
  std::filesystem::path path;
  Manifest manifest;

  const CheckpointHeader& header() const { return manifest.header; }
};

/// Verifies the manifest and each file's size and checksum.
/// Throws Error{checkpoint}: no checkpoint, a schema that is newer or too old, damaged.
VerifiedCheckpoint open_checkpoint(const std::filesystem::path& path);

/// Fills every entry of `state`; none is touched when the checkpoint does not fit.
/// Throws Error{checkpoint}: entries that are missing, left over, of another element type or of another shape than in
/// `state`; state of several ranks.
void load_checkpoint(const VerifiedCheckpoint& checkpoint, StateList& state);

/// Allocates the parameters (matrices in `matrix`, f32 or bf16 rounded to nearest even; gains in f32; rows padded) and
/// fills them from the master weights alone. Nothing is allocated when the checkpoint does not fit.
/// Throws Error{checkpoint} as load_checkpoint.
ParameterSet load_checkpoint_weights(const VerifiedCheckpoint& checkpoint, const ParameterLayout& layout, DType matrix);

/// The steps of a run's checkpoints, ascending, valid or not; empty when there is none.
/// Throws Error{checkpoint} when the folder cannot be read.
std::vector<int64_t> list_checkpoints(const std::filesystem::path& run_directory);

struct RefusedCheckpoint {
  std::filesystem::path path;
  std::string reason;
};

/// The newest checkpoint whose manifest, sizes and checksums are right; newer ones that are not go to `refused`.
std::optional<VerifiedCheckpoint> newest_valid_checkpoint(const std::filesystem::path& run_directory,
                                                          std::vector<RefusedCheckpoint>& refused);

/// Removes old checkpoints after a new one is in place. The newest `keep` (1 or more) stay, and those whose step is a
/// multiple of `keep_every` (0: none). Damaged ones are neither counted nor removed.
void prune_checkpoints(const std::filesystem::path& run_directory, int64_t keep, int64_t keep_every);

}  // namespace nibble
