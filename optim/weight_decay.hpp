// Which parameters decay: all but those whose names match a pattern, and steps of quantizers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/parameters.hpp"

namespace nibble {

/// Edits (insert, delete, replace one character) that make `name` match `pattern`; `*` stands for any characters.
int pattern_distance(std::string_view pattern, std::string_view name);

/// Whether the whole name matches: `model.layers.*.down_proj.weight`, `*norm.weight`.
inline bool matches(std::string_view pattern, std::string_view name) { return pattern_distance(pattern, name) == 0; }

/// Parameters that do not decay by default: the norms' gains, for which zero is no neutral value, and the embedding
/// (with it a tied head), whose rows would shrink in every step in which their tokens do not occur.
/// An untied head decays; name "lm_head.weight" too for the rule of the QuEST and Quartet papers.
inline const std::vector<std::string> default_no_decay = {"*norm.weight", "model.embed_tokens.weight"};

/// For each parameter whether it decays. Throws Error{configuration} that names the nearest parameters for a pattern
/// that matches none.
std::vector<bool> weight_decay_mask(const std::vector<ParameterInfo>& parameters,
                                    const std::vector<std::string>& no_decay);

}  // namespace nibble
