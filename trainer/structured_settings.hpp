// Settings whose values are maps or lists of maps: recipes and overrides (settings_table.hpp has their rows).
//
// Not for what they mean for a model (precision.hpp).
#pragma once

#include <string>

#include "trainer/settings_table.hpp"
#include "trainer/yaml_fields.hpp"

namespace nibble {

/// Whether YAML may say the setting's value by a map or a list of maps.
bool is_structured(const Setting& setting);

/// Reads such a value. A recipe written out in the place of a name joins precision.recipes under its own.
/// Throws Error{configuration} with the place of the node that is wrong.
void assign_node(const Setting& setting, Settings& settings, const YAML::Node& node, const PlaceOf& place);

/// In flow style, on one line, as assign_node reads it.
std::string print_overrides(const Setting& setting, Settings& settings);
std::string print_recipes(const std::vector<Recipe>& recipes);

}  // namespace nibble
