// What a user names as MODEL: a run, one of its checkpoints, or a Hugging Face folder.
//
// Not for: resuming a run, which needs all of its state (checkpoint_load.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.hpp"
#include "model/parameters.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

struct ModelSource {
  std::filesystem::path path;                    ///< the checkpoint or the Hugging Face folder
  std::optional<VerifiedCheckpoint> checkpoint;  ///< none: a Hugging Face folder
  std::vector<RefusedCheckpoint> refused;        ///< newer checkpoints of the run that are damaged: tell the user
};

/// A run directory stands for its newest valid checkpoint.
/// Throws Error{checkpoint}: missing, not a folder, a run without a valid checkpoint, a damaged checkpoint, a folder of
/// another kind.
ModelSource find_model(const std::filesystem::path& path);

/// All of a model but its weights.
struct ModelDescription {
  ModelSource source;
  ModelConfig config;
  std::unique_ptr<Tokenizer> tokenizer;  ///< null where the model comes with none that Nibble reads
  std::string tokenizer_problem;         ///< why its tokenizer cannot be used: fatal only to those who need one
  SpecialTokens tokens;
  int64_t step = 0;  ///< optimizer steps done; 0 for Hugging Face
};

/// Throws Error{checkpoint} for a config.json that is missing or of another architecture, and when the tokenizer in a
/// checkpoint is not the one it was made with.
ModelDescription describe_model(ModelSource source);

/// The weights, read as they are asked for. Throws as open_checkpoint_weights and open_huggingface_weights do.
std::unique_ptr<WeightSource> open_weights(const ModelDescription& model);

struct LoadedModel : ModelDescription {
  ParameterLayout layout;
  ParameterSet weights;
};

/// Matrices in `matrix` (f32 or bf16), vectors in f32, rows padded; with the steps of quantizers where a recipe that
/// learns them is to run. Throws as find_model, describe_model, load_checkpoint_weights and import_huggingface do, and
/// Error{checkpoint} when the steps were not learned.
LoadedModel load_model(const std::filesystem::path& path, DType matrix, bool with_steps = false);

}  // namespace nibble
