// Which recipes a run follows where and when, from its settings.
//
// Not for: reading them from YAML (structured_settings.hpp), what a recipe is (quant/recipe.hpp).
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "quant/precision.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// Whether a setting is one of those that recipes are made of.
inline bool is_precision(const std::string& key) { return key.starts_with("precision."); }

/// `steps` of the whole run and `layers` of the model: what shares of the run and "last 4" are counted from. Later
/// overrides go over earlier ones, keep_bf16 over all.
/// Throws Error{configuration} for an unknown name (with the nearest one), blocks that the model does not have, and
/// what cannot be combined.
Precision precision_of(const Settings& settings, int64_t steps, int64_t layers);

/// What the model's weights and activations are held in; needs no model.
DType operands_of(const Settings& settings);

/// The run's recipe and those of its overrides; needs no model.
/// Throws Error{configuration} for an unknown name; its `where` begins with the setting's key.
std::vector<Recipe> recipes_of(const PrecisionSettings& settings);

/// A row, a member of a family, or one of `own`. Throws Error{configuration} with the nearest name and all of them.
Recipe find_recipe(const std::string& name, const std::vector<Recipe>& own, const std::string& where);

/// One sentence for each of a run's recipes that should be known to whoever starts it.
std::vector<std::string> warnings_of(const Precision& precision);

// The words of overrides. All throw ValueError (units.hpp) for others.

/// "3", "0-1", "first 2", "last 4" of so many layers: first and end. Ends beyond the last layer stay.
std::pair<int64_t, int64_t> layer_span(std::string_view text, int64_t layers);
/// "last 10%", "first 500", "10% to 50%", "" (all) of so many steps: first and end.
std::pair<int64_t, int64_t> step_span(std::string_view text, int64_t steps);
/// "qkv", "output", "gate_up", "down".
Projection projection_named(std::string_view text);

}  // namespace nibble
