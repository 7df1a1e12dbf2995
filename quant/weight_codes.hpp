// Weights that may be given as codes: those of which all products of a layer multiply one set of codes.
//
// HALO's HQ-FSDP (arXiv 2501.02625): ranks that own whole rows of a weight rotate and quantize these under a scale that
// they share, and send codes instead of the weight. Bit for bit that is what the layer itself makes of the whole
// weight. Not for: making and reading codes (Linear::encode_weight), how they travel (trainer/sharded_weights.hpp).
#pragma once

#include <optional>
#include <vector>

#include "quant/precision.hpp"

namespace nibble {

/// What codes of a weight depend on besides the weight.
struct WeightCodes {
  Rotation rotation{};  ///< of the input features
  Quantizer quantizer{};

  int bits() const { return quantizer.element->bits(); }
  bool operator==(const WeightCodes&) const = default;
};

/// The codes that every product of the recipe multiplies in w's place, of one element each under one scale for the
/// tensor, which follows from w alone, rounded to nearest. Nothing where a product reads more of w: blocks or rows have
/// scales of their own, a gradient quantizes w anew, a mask tells which elements pass a gradient on.
std::optional<WeightCodes> weight_codes(const Recipe& recipe);

/// Of a layer whose recipe changes: nothing unless the codes of all phases are the same.
std::optional<WeightCodes> weight_codes(const std::vector<Precision::Phase>& phases);

}  // namespace nibble
