// Parameters by the patterns of their names: `model.layers.*.down_proj.weight`, `*norm.weight`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/parameters.hpp"

namespace nibble {

/// Edits (insert, delete, replace one character) that make `name` match `pattern`; `*` stands for any characters.
int pattern_distance(std::string_view pattern, std::string_view name);

/// Whether the whole name matches.
inline bool matches(std::string_view pattern, std::string_view name) { return pattern_distance(pattern, name) == 0; }

/// The parameters that match. Throws Error{configuration} that names the nearest ones, where none does; `where` is the
/// setting that has the pattern.
std::vector<size_t> matching(const std::string& pattern, const std::vector<ParameterInfo>& parameters,
                             const std::string& where);

}  // namespace nibble
