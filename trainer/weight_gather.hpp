// What of sharded weights travels as codes, from the settings and the recipes.
//
// Not for: the codes (own_codes.hpp), the gathers (sharded_weights.hpp).
#pragma once

#include "model/parameters.hpp"
#include "quant/precision.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// Whether sharded parameters are gathered as codes.
bool gathers_codes(const Settings& settings);

/// By buffer, the bits of a projection's codes where its recipe has weight_codes(), else 0.
CodeBits code_bits(const ParameterLayout& layout, const Precision& precision);

/// Throws Error{configuration} for settings that contradict weights.gather; `where` begins with the key.
void check_gather(const Settings& settings);
/// Throws Error{configuration}, naming the recipes that would do, where no projection of `layers` blocks has codes.
void require_codes(const Precision& precision, int64_t layers);

}  // namespace nibble
