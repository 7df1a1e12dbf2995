// Whether the parts of a recipe have a meaning together.
//
// Parts combine freely, but not all of them: a field that its quantizer would never read is a mistake of whoever wrote
// it, and is refused. Not for: whether blocks divide a layer's axes (quantized_linear.hpp).
#pragma once

#include <string>
#include <vector>

#include "quant/recipe.hpp"

namespace nibble {

/// Throws Error{configuration} for a combination without meaning, naming the part. Returns what has a meaning but
/// should be known: a sentence each.
std::vector<std::string> check(const Recipe& recipe);

}  // namespace nibble
