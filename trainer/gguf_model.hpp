// Llama models as GGUF files: names, keys and the order of rows that llama.cpp expects.
//
// A Llama is of architecture "llama", whose RoPE rotates neighbouring channels: rows of q and k are written in that
// order. One with QK-norm is a "qwen3", whose RoPE is that of Nibble. A tied head is left out; gains are F32.
// Names and keys: llama.cpp's llama-arch.cpp and ggml's docs/gguf.md.
// Not for: the container (gguf.hpp) and tokenizers (gguf_tokenizer.hpp).
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trainer/gguf.hpp"
#include "trainer/logit_difference.hpp"
#include "trainer/perplexity_change.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

/// Which type a matrix is stored in; gains are not asked for.
using MatrixType = std::function<const RowType&(const ParameterInfo& info)>;

/// Throws Error{configuration} for models that llama.cpp does not compute: QK-norm with rescaled RoPE.
std::vector<TensorGroup> gguf_groups(WeightSource& source, const MatrixType& type);

/// The keys of the model: "general.*" and "llama.*" or "qwen3.*". `type` is that of most matrices.
GgufMetadata gguf_model_metadata(const ModelConfig& config, const std::string& name, const RowType& type);

struct GgufOptions {
  bool overwrite = false;  ///< replace a file that is GGUF already
  /// Reads the complete file, before it has its name, and compares it with what it was made of; the result goes into
  /// its metadata. Empty: nobody asks.
  std::function<LogitDifference(const std::filesystem::path& file)> compare{};
  /// Likewise for the perplexity.
  std::function<PerplexityChange(const std::filesystem::path& file)> perplexity{};
  BytesProgress progress{};
};

struct GgufResult {
  int64_t bytes = 0;  ///< of tensors
  LogitDifference difference{};
  std::optional<PerplexityChange> perplexity{};
};

/// Writes a file, all or nothing. Throws Error{configuration} for a target that exists, unless `overwrite` and it is
/// GGUF; Error{resource} when the disk is full.
GgufResult write_gguf_model(const std::filesystem::path& path, GgufMetadata metadata,
                            const std::vector<TensorGroup>& groups, const GgufOptions& options);

/// The weights of a file that gguf_groups has filled, in Nibble's order of rows. Throws Error{checkpoint} when they are
/// not those of that model.
std::unique_ptr<WeightSource> open_gguf_weights(const std::filesystem::path& path, const ModelConfig& config);

}  // namespace nibble
