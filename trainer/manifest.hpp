// manifest.json of a checkpoint: what the checkpoint is of, and the size and checksum of each of its files.
//
// It is written last and carries a checksum of itself, so a checkpoint with a good manifest is whole.
// Not for: the state itself (checkpoint_save.hpp, checkpoint_load.hpp).
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

/// The layout of checkpoints that this program writes. It reads this one and the one before. 1: a single rank, whose
/// file holds matrices; 2: the tensors are cut among the ranks, whose files hold vectors.
inline constexpr int64_t checkpoint_schema = 2;
inline constexpr int64_t oldest_checkpoint_schema = 1;

/// What a run must know before it can load its state.
struct CheckpointHeader {
  int64_t step = 0;         ///< optimizer steps done
  int64_t total_steps = 0;  ///< of the whole run; 0: the manifest does not say
  uint64_t seed = 0;
  ModelConfig model;
  TokenizerInfo tokenizer;
  std::vector<TokenizerFile> tokenizer_files{};    ///< that make the tokenizer, each a file of the checkpoint; or none
  nlohmann::json data = nlohmann::json::object();  ///< what identifies the token files that the run learns from
  nlohmann::json tuning = nlohmann::json::object();  ///< instruction set, threads, library versions ...
  bool retuned = false;                              ///< the run once went on with another tuning (--retune)
  std::string config_text;                           ///< the complete configuration with defaults, YAML
};

struct ManifestFile {
  std::string name;  ///< "rank_0000.h5", "tokenizer.json"
  uint64_t bytes = 0;
  uint64_t checksum = 0;  ///< XXH3
};

/// A run of a tensor's elements, row-major: the dataset of the tensor's name in the file of that rank.
struct ManifestPiece {
  int rank = 0;
  int64_t first = 0, count = 0;

  bool operator==(const ManifestPiece&) const = default;
};

/// An entry of the state list.
struct ManifestTensor {
  std::string name;
  DType dtype = DType::f32;
  int64_t rows = 0, cols = 0;         ///< of the logical tensor
  std::vector<ManifestPiece> pieces;  ///< ascending; together all elements, at most one of each rank

  int64_t size() const { return rows * cols; }
  bool is_like(const ManifestTensor& other) const {
    return dtype == other.dtype && rows == other.rows && cols == other.cols;
  }
};

struct Manifest {
  CheckpointHeader header;
  int64_t ranks = 1;
  std::vector<ManifestFile> files;  ///< one each rank, then the tokenizer's
  std::vector<ManifestTensor> tensors;
};

/// What one rank has written: its file, and every tensor with no more than this rank's piece of it.
struct RankFile {
  ManifestFile file;
  std::vector<ManifestTensor> tensors;
};

/// A rank's file as a text that ranks can send to each other, and back. `parse_rank_file` throws
/// Error{communication} for another text.
std::string to_text(const RankFile& file);
RankFile parse_rank_file(const std::string& text);

/// What is wrong with the tensor's pieces: out of order, not all elements, a rank twice or beyond `ranks`. Empty:
/// nothing.
std::string fault_of_pieces(const ManifestTensor& tensor, int64_t ranks);

/// "rank_0000.h5"
std::string rank_file_name(int rank);

/// Whole or not at all. Throws Error{resource}.
void write_manifest(const std::filesystem::path& checkpoint, const Manifest& manifest);

/// All but the contents of header.tokenizer_files, which lie beside the manifest.
/// Throws Error{checkpoint} when there is no manifest, it is damaged or contradicts itself, or its schema is newer or
/// too old.
Manifest read_manifest(const std::filesystem::path& checkpoint);

/// Compares each file's size and checksum. Throws Error{checkpoint}: missing, another size, another checksum.
void verify_files(const std::filesystem::path& checkpoint, const Manifest& manifest);

}  // namespace nibble
