// The weights of Hugging Face folders: which files hold them, and whether they are those of the model.
//
// Rows of q and k are in rotate-half order, as everywhere in Nibble, so no permutation happens here.
// Not for: config.json (huggingface_config.hpp) and not for writing folders (huggingface.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "model/parameters.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

/// All weights, or the index of the shards that hold them.
inline constexpr const char* single_weights_name = "model.safetensors";
inline constexpr const char* weights_index_name = "model.safetensors.index.json";

/// [rows, cols], of gains [cols].
std::vector<int64_t> huggingface_shape(const ParameterInfo& info);

/// Of DIRECTORY/model.safetensors or the shards of model.safetensors.index.json. A tied head may be absent, or present
/// and equal to the embedding. Throws Error{checkpoint} that lists the shards that are missing, or the tensors that are
/// missing, unexpected or of another shape.
std::unique_ptr<WeightSource> open_huggingface_weights(const std::filesystem::path& directory,
                                                       const ModelConfig& config);

/// Allocates the parameters (matrices in `matrix`, f32 or bf16; gains in f32; rows padded) and fills them. Nothing is
/// allocated before names and shapes were compared. Throws Error{checkpoint} as open_huggingface_weights, and for
/// weights that are not finite.
ParameterSet import_huggingface(const std::filesystem::path& directory, const ParameterLayout& layout, DType matrix);

}  // namespace nibble
