// Whether the blocks and rotations of a recipe fit a linear layer; each throws Error{configuration} where they do not.
//
// Not for: what is wrong with a recipe whatever the layer (recipe_check.hpp).
#pragma once

#include <optional>
#include <string>

#include "quant/hadamard.hpp"
#include "quant/recipe.hpp"

namespace nibble {

/// Blocks fill an axis of that length; the error says which lengths would do.
void require_fits(const Quantizer& quantizer, int64_t length, const std::string& layer, const char* axis);

/// The transform of an axis of that length, or nothing where nothing is rotated.
std::optional<Hadamard> hadamard_of(const Rotation& rotation, int64_t length, const std::string& layer,
                                    const char* axis);

/// A gradient's product needs an operand whose scales do not run along its reduction axis, or an error to fold them
/// into before its one rounding.
void require_foldable(const Quantizer& forward, const GradientRecipe& gradient, const std::string& recipe);

}  // namespace nibble
