// Llama models as Hugging Face folders: weights in, whole folders out.
//
// Rows of q and k are in rotate-half order, as everywhere in Nibble, so no permutation happens here.
// Not for: config.json itself (huggingface_config.hpp) and not for other layouts (GGUF, Meta's .pth).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "model/parameters.hpp"
#include "trainer/huggingface_config.hpp"

namespace nibble {

/// Allocates the parameters (matrices in `matrix`, f32 or bf16; gains in f32; rows padded) and fills them from
/// DIRECTORY/model.safetensors or from the shards of model.safetensors.index.json. Nothing is allocated before names
/// and shapes were compared. A tied head may be absent, or present and equal to the embedding.
/// Throws Error{checkpoint} that lists the tensors that are missing, unexpected or of another shape, and for weights
/// that are not finite.
ParameterSet import_huggingface(const std::filesystem::path& directory, const ParameterLayout& layout, DType matrix);

struct ExportOptions {
  DType dtype = DType::bf16;            ///< of matrices and gains: f32 or bf16
  int64_t shard_bytes = 5'000'000'000;  ///< a file holds at most this much, or a single tensor that is larger
  bool overwrite = false;               ///< replace a folder that an earlier export wrote
  SpecialTokens tokens{};
  std::string tokenizer_model{};  ///< bytes of a SentencePiece model, empty if there is none
};

struct ExportResult {
  int64_t files = 0;  ///< of weights
  int64_t bytes = 0;  ///< of tensors
};

/// Writes config.json, generation_config.json, the weights and the tokenizer, all or nothing.
/// Throws Error{configuration} for a target that exists and is not empty, unless `overwrite` and every file in it is of
/// a kind that an export writes; Error{resource} when the disk is full.
ExportResult export_huggingface(const std::filesystem::path& directory, const ModelConfig& config,
                                const ParameterLayout& layout, const ParameterSet& weights,
                                const ExportOptions& options);

}  // namespace nibble
