// Hugging Face's config.json of a Llama, both ways. One with QK-norm is a Qwen3: all else of the two is the same.
//
// Written with the keys of transformers 4 (rope_theta, rope_scaling, torch_dtype) and of transformers 5
// (rope_parameters, dtype), since each program reads one of them and takes a missing rope_theta for 10000.
// Not for: weights (huggingface.hpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/config.hpp"
#include "tensor/error.hpp"

namespace nibble {

/// Token ids that generation needs; a model may have several ends.
struct SpecialTokens {
  std::optional<int64_t> begin;
  std::vector<int64_t> ends;

  bool operator==(const SpecialTokens&) const = default;
};

/// The shape that the object describes. Keys that do not change what is computed are ignored. Throws Error{checkpoint}
/// with the key for another architecture, for what Nibble does not compute (biases, other activations or kinds of RoPE,
/// windows, weights quantized otherwise than in compressed-tensors' formats ...), for old and new keys that contradict each other, and for impossible dimensions.
ModelConfig parse_huggingface_config(const nlohmann::json& config, const std::string& where);

/// bos_token_id and eos_token_id. Throws Error{checkpoint} for ids outside the vocabulary.
SpecialTokens parse_special_tokens(const nlohmann::json& config, const std::string& where);

/// Reads DIRECTORY/config.json. Throws as parse_huggingface_config, and Error{checkpoint} when there is no such file.
ModelConfig read_huggingface_config(const std::filesystem::path& directory);
SpecialTokens read_huggingface_special_tokens(const std::filesystem::path& directory);

/// `dtype` is torch's name of the element type: "float32", "float16", "bfloat16".
nlohmann::ordered_json huggingface_config(const ModelConfig& config, const std::string& dtype,
                                          const SpecialTokens& tokens = {});

}  // namespace nibble
