// manifest.json of a checkpoint: what the checkpoint is of, and the size and checksum of each of its files.
//
// It is written last and carries a checksum of itself, so a checkpoint with a good manifest is whole.
// Not for: the state itself (checkpoint.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/tokenizer.hpp"
#include "model/config.hpp"
#include "tensor/dtype.hpp"

namespace nibble {

/// The layout of checkpoints that this program writes. It reads this one and the one before; 1 is the first.
inline constexpr int64_t checkpoint_schema = 1;
inline constexpr int64_t oldest_checkpoint_schema = 1;

/// What a run must know before it can load its state.
struct CheckpointHeader {
  int64_t step = 0;  ///< optimizer steps done
  uint64_t seed = 0;
  ModelConfig model;
  TokenizerInfo tokenizer;
  std::string tokenizer_model{};                     ///< bytes of a SentencePiece model, a file of its own; or empty
  nlohmann::json data = nlohmann::json::object();    ///< what identifies the token files that the run learns from
  nlohmann::json tuning = nlohmann::json::object();  ///< instruction set, threads, library versions ...
  bool retuned = false;                              ///< the run once went on with another tuning (--retune)
  std::string config_text;                           ///< the complete configuration with defaults, YAML
};

struct ManifestFile {
  std::string name;  ///< "rank_0000.h5", "tokenizer.model"
  uint64_t bytes = 0;
  uint64_t checksum = 0;  ///< XXH3
};

/// An entry of the state list.
struct ManifestTensor {
  std::string name;
  DType dtype = DType::f32;
  int64_t rows = 0, cols = 0;

  bool operator==(const ManifestTensor&) const = default;
};

struct Manifest {
  CheckpointHeader header;
  int64_t ranks = 1;
  std::vector<ManifestFile> files;  ///< one each rank, then the tokenizer's model if there is one
  std::vector<ManifestTensor> tensors;
};

/// "rank_0000.h5"
std::string rank_file_name(int rank);

/// Whole or not at all. Throws Error{resource}.
void write_manifest(const std::filesystem::path& checkpoint, const Manifest& manifest);

/// All but header.tokenizer_model, which lies beside the manifest.
/// Throws Error{checkpoint} when there is no manifest, it is damaged, or its schema is newer or too old.
Manifest read_manifest(const std::filesystem::path& checkpoint);

/// Compares each file's size and checksum. Throws Error{checkpoint}: missing, another size, another checksum.
void verify_files(const std::filesystem::path& checkpoint, const Manifest& manifest);

}  // namespace nibble
