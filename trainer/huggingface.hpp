// Llama models as Hugging Face folders: whole folders out.
//
// Rows of q and k are in rotate-half order, as everywhere in Nibble, so no permutation happens here.
// Not for: config.json itself (huggingface_config.hpp), reading folders (huggingface_weights.hpp), nor for other
// layouts (GGUF, Meta's .pth).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.hpp"
#include "model/parameters.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/logit_difference.hpp"
#include "trainer/perplexity_change.hpp"
#include "trainer/row_type.hpp"
#include "trainer/tensor_group.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

/// What a folder says beside the weights, and how they are laid into files.
struct FolderOptions {
  std::string dtype = "bfloat16";       ///< config.json's word for the element type of the model
  int64_t shard_bytes = 5'000'000'000;  ///< a file holds at most this much, or a single group that is larger
  bool overwrite = false;               ///< replace a folder that an earlier export wrote
  SpecialTokens tokens{};
  std::vector<TokenizerFile> tokenizer_files{};  ///< that make the tokenizer; none if the folder gets none
  nlohmann::ordered_json quantization{};         ///< config.json's "quantization_config", null if there is none
  /// Reads the complete folder, before it has its name, and compares it with what it was made of; the result goes into
  /// the metadata of each file. Empty: nobody asks.
  std::function<LogitDifference(const std::filesystem::path& folder)> compare{};
  /// Likewise for the perplexity.
  std::function<PerplexityChange(const std::filesystem::path& folder)> perplexity{};
  std::map<std::string, std::string> facts{};  ///< more of the files' metadata
  BytesProgress progress{};
};

struct ExportResult {
  int64_t files = 0;  ///< of weights
  int64_t bytes = 0;  ///< of tensors
  LogitDifference difference{};
  std::optional<PerplexityChange> perplexity{};
};

/// All parameters as they are, elements of the type.
std::vector<TensorGroup> huggingface_groups(WeightSource& source, const RowType& type);

/// Writes config.json, generation_config.json, the weights and the tokenizer, all or nothing.
/// Throws Error{configuration} for a target that exists and is not empty, unless `overwrite` and every file in it is of
/// a kind that an export writes; Error{resource} when the disk is full.
ExportResult write_huggingface(const std::filesystem::path& directory, const ModelConfig& config,
                               std::vector<TensorGroup> groups, const FolderOptions& options);

struct ExportOptions {
  DType dtype = DType::bf16;  ///< of matrices and gains: f32 or bf16
  int64_t shard_bytes = FolderOptions{}.shard_bytes;
  bool overwrite = false;
  SpecialTokens tokens{};
  std::vector<TokenizerFile> tokenizer_files{};
};

/// The same for weights in memory.
ExportResult export_huggingface(const std::filesystem::path& directory, const ModelConfig& config,
                                const ParameterSet& weights, const ExportOptions& options);

}  // namespace nibble
