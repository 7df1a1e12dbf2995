#include "trainer/precision.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <set>

#include "quant/recipe_check.hpp"
#include "tensor/error.hpp"
#include "trainer/nearest.hpp"
#include "trainer/recipe_yaml.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

/// A recipe with the forward or backward pass of others; empty names change nothing.
Recipe combined(const PrecisionSettings& settings, const std::string& recipe, const std::string& forward,
                const std::string& backward, const std::string& place) {
  const auto find = [&](const std::string& name, const char* key) {
    return find_recipe(name, settings.recipes, fmt::format("{}.{}", place, key));
  };
  Recipe result = find(recipe, "recipe");
  if (forward.empty() && backward.empty()) return result;
  const Recipe ahead = forward.empty() ? result : find(forward, "forward");
  return combine(ahead, backward.empty() ? result : find(backward, "backward"));
}

std::string place_of(size_t entry) { return fmt::format("precision.overrides[{}]", entry); }

/// What a rule with a recipe of its own leaves open is that recipe's, else the run's.
Recipe recipe_of(const PrecisionSettings& settings, const PrecisionOverride& rule, size_t entry) {
  const bool own = !rule.recipe.empty();
  const auto either = [&](const std::string& said, const std::string& of_run) {
    return said.empty() && !own ? of_run : said;
  };
  return combined(settings, own ? rule.recipe : settings.recipe, either(rule.forward, settings.forward),
                  either(rule.backward, settings.backward), place_of(entry));
}

/// A rule for each span of layers.
void add_rules(const PrecisionSettings& settings, size_t entry, int64_t steps, int64_t layers,
               std::vector<PrecisionRule>& rules) {
  const PrecisionOverride& from = settings.overrides[entry];
  PrecisionRule rule{.recipe = recipe_of(settings, from, entry)};
  for (const std::string& projection : from.projections) rule.of.push_back(projection_named(projection));
  std::tie(rule.first_step, rule.end_step) = step_span(from.phase, steps);
  if (rule.end_step == steps) rule.end_step = std::numeric_limits<int64_t>::max();
  if (from.layers.empty()) rules.push_back(rule);
  for (const std::string& span : from.layers) {
    std::tie(rule.first_layer, rule.end_layer) = layer_span(span, layers);
    if (rule.end_layer > layers)
      throw Error({.kind = ErrorKind::configuration,
                   .what = "an override of blocks that the model does not have",
                   .where = place_of(entry) + ".layers",
                   .seen = span,
                   .allowed = fmt::format("0 to {}", layers - 1)});
    rules.push_back(rule);
  }
}

void keep_bf16(const KeptBlocks& kept, int64_t layers, std::vector<PrecisionRule>& rules) {
  if (kept.first + kept.last > layers)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "more blocks are kept than the model has",
                 .where = kept.last > 0 ? "precision.keep_bf16.last" : "precision.keep_bf16.first",
                 .seen = fmt::format("first: {}, last: {}", kept.first, kept.last),
                 .allowed = fmt::format("together at most {}", layers)});
  const Recipe bf16 = find_recipe("bf16");
  if (kept.first > 0) rules.push_back({.end_layer = kept.first, .recipe = bf16});
  if (kept.last > 0) rules.push_back({.first_layer = layers - kept.last, .recipe = bf16});
}

int64_t whole_number(std::string_view text) {
  const int64_t number = parse_count(text);
  if (number < 0) throw ValueError{"a count below 0"};
  return number;
}

/// What follows a word and a space; empty where the text does not begin with it.
std::string_view behind(std::string_view text, std::string_view word) {
  return text.starts_with(word) ? text.substr(word.size()) : std::string_view();
}

}  // namespace

std::pair<int64_t, int64_t> layer_span(std::string_view text, int64_t layers) {
  if (const std::string_view count = behind(text, "first "); !count.empty()) return {0, whole_number(count)};
  if (const std::string_view count = behind(text, "last "); !count.empty()) {
    const int64_t last = whole_number(count);
    if (last > layers) throw ValueError{"more blocks than there are"};
    return {layers - last, layers};
  }
  const size_t dash = text.find('-');
  const int64_t first = whole_number(text.substr(0, dash)),
                last = dash == std::string_view::npos ? first : whole_number(text.substr(dash + 1));
  if (last < first) throw ValueError{"blocks in the wrong order"};
  return {first, last + 1};
}

std::pair<int64_t, int64_t> step_span(std::string_view text, int64_t steps) {
  const auto position = [&](std::string_view part) {
    const StepsOrShare value = parse_steps_or_share(part);
    if (value.value < 0 || (value.is_share && value.value > 1)) throw ValueError{"a phase outside the run"};
    return std::min(value.of(steps), steps);
  };
  if (text.empty()) return {0, steps};
  if (const std::string_view length = behind(text, "first "); !length.empty()) return {0, position(length)};
  if (const std::string_view length = behind(text, "last "); !length.empty()) return {steps - position(length), steps};
  constexpr std::string_view between = " to ";
  const size_t middle = text.find(between);
  if (middle == std::string_view::npos) throw ValueError{"no phase of a run"};
  const int64_t first = position(text.substr(0, middle)), end = position(text.substr(middle + between.size()));
  if (end < first) throw ValueError{"a phase that ends before it begins"};
  return {first, end};
}

Projection projection_named(std::string_view text) {
  for (const Projection projection : projections)
    if (text == name(projection)) return projection;
  throw ValueError{fmt::format("unknown projection '{}'", text)};
}

Recipe find_recipe(const std::string& name, const std::vector<Recipe>& own, const std::string& where) {
  for (const Recipe& recipe : own)
    if (recipe.name == name) return recipe;
  if (std::optional<Recipe> found = recipe_named(name)) return *found;
  const std::vector<std::string> names = recipe_names(own);
  const std::string near = nearest(name, names);
  throw Error({.kind = ErrorKind::configuration,
               .what = "unknown recipe",
               .where = where,
               .seen = name,
               .allowed = fmt::format("{}", fmt::join(names, ", ")),
               .next = near.empty() ? "" : fmt::format("did you mean '{}'?", near)});
}

std::vector<Recipe> recipes_of(const PrecisionSettings& settings) {
  std::vector<Recipe> all = {combined(settings, settings.recipe, settings.forward, settings.backward, "precision")};
  for (size_t entry = 0; entry < settings.overrides.size(); ++entry)
    all.push_back(recipe_of(settings, settings.overrides[entry], entry));
  return all;
}

DType operands_of(const Settings& settings) {
  const PrecisionSettings& from = settings.precision;
  return combined(from, from.recipe, from.forward, from.backward, "precision").operands;
}

Precision precision_of(const Settings& settings, int64_t steps, int64_t layers) {
  const PrecisionSettings& from = settings.precision;
  Recipe everywhere = combined(from, from.recipe, from.forward, from.backward, "precision");
  std::vector<PrecisionRule> rules;
  for (size_t entry = 0; entry < from.overrides.size(); ++entry) add_rules(from, entry, steps, layers, rules);
  keep_bf16(from.keep_bf16, layers, rules);
  return {std::move(everywhere), std::move(rules)};
}

std::vector<std::string> warnings_of(const Precision& precision) {
  std::set<std::string> seen;
  std::vector<std::string> warnings;
  const auto add = [&](const Recipe& recipe) {
    for (const std::string& warning : check(recipe))
      if (seen.insert(warning).second) warnings.push_back(warning);
  };
  add(precision.recipe());
  for (const PrecisionRule& rule : precision.rules()) add(rule.recipe);
  return warnings;
}

}  // namespace nibble
