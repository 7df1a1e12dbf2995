// Recipes written out in YAML: the parts of quant/recipe.hpp by name.
//
//   {name: mine, forward: quartet2, backward: {input: {error: {like: nvfp4, rounding: stochastic}}}}
//
// The tables of parts stand in recipe_yaml.cpp. Not for: which layers follow a recipe (precision.hpp).
#pragma once

#include <string>
#include <vector>

#include "quant/recipe.hpp"
#include "trainer/yaml_fields.hpp"

namespace nibble {

/// Throws Error{configuration} with the place of the node that is wrong: an unknown part, word or name, a name that a
/// row or family has, a combination without meaning (quant/recipe_check.hpp).
Recipe read_recipe(const YAML::Node& node, const PlaceOf& place);
/// One line that read_recipe gives the same recipe from; formats that no row has are described in it.
std::string print_recipe(const Recipe& recipe);

/// Of rows and families, and `more` before them; for messages.
std::vector<std::string> recipe_names(const std::vector<Recipe>& more = {});

}  // namespace nibble
