// What a user names as MODEL: a run, one of its checkpoints, or a Hugging Face folder.
//
// Not for: resuming a run, which needs all of its state (checkpoint.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "data/tokenizer.hpp"
#include "model/parameters.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/huggingface_config.hpp"

namespace nibble {

/// The SentencePiece model that a run trains with, copied into its directory.
inline constexpr const char* tokenizer_file_name = "tokenizer.model";

struct ModelSource {
  enum class Kind { checkpoint, huggingface };
  Kind kind = Kind::checkpoint;
  std::filesystem::path path;              ///< the checkpoint or the Hugging Face folder
  std::filesystem::path run_directory;     ///< of a checkpoint
  std::vector<RefusedCheckpoint> refused;  ///< newer checkpoints of the run that are damaged: tell the user
};

/// A run directory stands for its newest valid checkpoint.
/// Throws Error{checkpoint}: missing, not a folder, a run without a valid checkpoint, a folder of another kind.
ModelSource find_model(const std::filesystem::path& path);

struct LoadedModel {
  ModelSource source;
  ModelConfig config;
  ParameterLayout layout;
  ParameterSet weights;
  std::unique_ptr<Tokenizer> tokenizer;  ///< null where the model comes with none that Nibble reads
  SpecialTokens tokens;
  int64_t step = 0;  ///< optimizer steps done; 0 for Hugging Face
};

/// Matrices in `matrix` (f32 or bf16), gains in f32, rows padded. Throws as find_model, load_checkpoint_weights and
/// import_huggingface do, and Error{checkpoint} when the tokenizer beside a checkpoint is not the one it was made with.
LoadedModel load_model(const std::filesystem::path& path, DType matrix);

}  // namespace nibble
