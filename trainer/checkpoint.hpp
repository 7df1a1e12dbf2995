// Checkpoints: RUN/checkpoints/step_00000500 with each rank's state (HDF5) and a manifest.
//
// A checkpoint is there whole or not at all, and nothing of it is opened before its size and checksum were verified.
// Here they are named, found, verified and removed. Not for: writing (checkpoint_save.hpp) and reading their state
// (checkpoint_load.hpp), finding the model that a user named (run_directory.hpp), or models of other programs
// (huggingface.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/manifest.hpp"

namespace nibble {

/// Entries of the state list whose names start so are the fp32 master weights: "weights/model.norm.weight".
inline constexpr const char* weights_prefix = "weights/";

/// RUN/checkpoints/step_00000500
std::filesystem::path checkpoint_path(const std::filesystem::path& run_directory, int64_t step);

/// The step of a checkpoint's name: 500 for "step_00000500", none for other spellings of the number.
std::optional<int64_t> parse_step_name(std::string_view name);

/// A checkpoint that was found whole: its bytes are hashed once, whatever is read from it then.
struct VerifiedCheckpoint {
  std::filesystem::path path;
  Manifest manifest;

  const CheckpointHeader& header() const { return manifest.header; }
};

/// Who compares the files with their checksums, which reads all of them: of many ranks, one is enough.
enum class Verification { here, by_another_rank };

/// Verifies the manifest and each file's size and checksum.
/// Throws Error{checkpoint}: no checkpoint, a schema that is newer or too old, damaged.
VerifiedCheckpoint open_checkpoint(const std::filesystem::path& path, Verification verification = Verification::here);

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

/// Removes old checkpoints after a new one is in place. The newest `keep` (1 or more) stay, those whose step is a
/// multiple of `keep_every` (0: none), and those of the steps `kept`. Damaged ones are neither counted nor removed.
void prune_checkpoints(const std::filesystem::path& run_directory, int64_t keep, int64_t keep_every,
                       std::span<const int64_t> kept = {});

}  // namespace nibble
