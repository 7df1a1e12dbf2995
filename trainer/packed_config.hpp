// config.json's "quantization_config" of a packed model: how readers of compressed-tensors know what to do with it.
//
// Keys as compressed_tensors.quantization (QuantizationConfig, QuantizationScheme, QuantizationArgs) reads them.
// Not for: the rest of config.json (huggingface_config.hpp).
#pragma once

#include <nlohmann/json.hpp>

#include "trainer/packing_plan.hpp"

namespace nibble {

/// One group for each pair of a scale's extent and an activation's quantizer; the head, and what the plan leaves alone,
/// are ignored. `activations`: they are quantized as training did, where the plan has that.
nlohmann::ordered_json packed_config(const ParameterLayout& layout, const PackingPlan& plan, bool activations);

}  // namespace nibble
