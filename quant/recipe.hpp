// Training methods as data: each recipe is a row of one table.
//
// Today a row names the type of the GEMM operands; quantized recipes add their formats, scales, rotations and
// roundings as further columns.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "tensor/dtype.hpp"

namespace nibble {

struct Recipe {
  std::string_view name;
  DType operands;  ///< of every GEMM; also the type of the model's working weights and saved activations
};

/// All recipes, in the order in which help lists them.
std::span<const Recipe> recipes();

/// Throws Error{configuration} for an unknown name.
const Recipe& find_recipe(std::string_view name);

}  // namespace nibble
