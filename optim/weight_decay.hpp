// Which parameters decay: all but those whose names match a pattern, and steps of quantizers.
#pragma once

#include <string>
#include <vector>

#include "model/parameters.hpp"

namespace nibble {

/// Parameters that do not decay by default: the norms' gains, for which zero is no neutral value, and the embedding
/// (with it a tied head), whose rows would shrink in every step in which their tokens do not occur.
/// An untied head decays; name "lm_head.weight" too for the rule of the QuEST and Quartet papers.
inline const std::vector<std::string> default_no_decay = {"*norm.weight", "model.embed_tokens.weight"};

/// For each parameter whether it decays. Throws Error{configuration} that names the nearest parameters for a pattern
/// that matches none.
std::vector<bool> weight_decay_mask(const std::vector<ParameterInfo>& parameters,
                                    const std::vector<std::string>& no_decay);

}  // namespace nibble
