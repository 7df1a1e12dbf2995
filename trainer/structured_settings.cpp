#include "trainer/structured_settings.hpp"

#include <algorithm>

#include "optim/moment.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/precision.hpp"
#include "trainer/recipe_yaml.hpp"
#include "trainer/units.hpp"

namespace nibble {

template <>
inline constexpr auto fields<PrecisionOverride> =
    std::tuple{Field{"layers", &PrecisionOverride::layers},   Field{"projections", &PrecisionOverride::projections},
               Field{"phase", &PrecisionOverride::phase},     Field{"recipe", &PrecisionOverride::recipe},
               Field{"forward", &PrecisionOverride::forward}, Field{"backward", &PrecisionOverride::backward}};

template <>
inline constexpr auto fields<GradientOverride> =
    std::tuple{Field{"layers", &GradientOverride::layers}, Field{"exchange", &GradientOverride::exchange},
               Field{"codec", &GradientOverride::codec}, Field{"density", &GradientOverride::density}};

template <>
inline constexpr auto fields<OptimizerGroup> =
    std::tuple{Field{"match", &OptimizerGroup::match}, Field{"name", &OptimizerGroup::name},
               Field{"learning_rate", &OptimizerGroup::learning_rate},
               Field{"weight_decay", &OptimizerGroup::weight_decay}, Field{"moments", &OptimizerGroup::moments}};

namespace {

template <class Read>
void read_list(const YAML::Node& node, const PlaceOf& place, Read&& read) {
  if (!node.IsSequence()) refuse_field(node, place, "a list of maps belongs here", "[{...}, {...}]");
  for (const YAML::Node& entry : node) read(entry);
}

/// Adds a recipe to those of the run. The same once more is no harm.
void define(Settings& settings, const Recipe& recipe, const YAML::Node& node, const PlaceOf& place) {
  for (const Recipe& earlier : settings.precision.recipes) {
    if (earlier.name != recipe.name) continue;
    if (earlier == recipe) return;
    refuse_field(node, place, fmt::format("another recipe is called '{}' already", recipe.name),
                 "a name for each recipe");
  }
  settings.precision.recipes.push_back(recipe);
}

/// What can be known to be wrong before the model and the length of the run are.
void check_words(const PrecisionOverride& rule, const YAML::Node& node, const PlaceOf& place) {
  constexpr int64_t any = int64_t{1} << 40;
  try {
    for (const std::string& layers : rule.layers) layer_span(layers, any);
    step_span(rule.phase, any);
    for (const std::string& projection : rule.projections) projection_named(projection);
  } catch (const ValueError& error) {
    refuse_field(
        node, place, error.what,
        "layers: 3, 0-1, first 2, last 4; projections: qkv, output, gate_up, down; phase: last 10%, first 500, "
        "10% to 50%");
  }
  if (rule.recipe.empty() && rule.forward.empty() && rule.backward.empty())
    refuse_field(node, place, "an override that changes nothing", "recipe, forward or backward: NAME");
}

void check_words(const GradientOverride& rule, const YAML::Node& node, const PlaceOf& place) {
  constexpr int64_t any = int64_t{1} << 40;
  try {
    for (const std::string& layers : rule.layers) group_span(layers, any);
  } catch (const ValueError& error) {
    refuse_field(node, place, error.what, "layers: embedding, head, 3, 0-1, first 2, last 4");
  }
  if (rule.exchange.empty() && rule.codec.empty() && rule.density == 0)
    refuse_field(node, place, "an override that changes nothing", "exchange, codec or density");
}

void check_words(const OptimizerGroup& group, const YAML::Node& node, const PlaceOf& place) {
  if (group.match.empty()) refuse_field(node, place, "a group without parameters", "match: [PATTERN, ...]");
  if (!group.name.empty() && std::ranges::find(optimizer_names, group.name) == optimizer_names.end())
    refuse_word(node["name"], place, "unknown optimizer", optimizer_names);
  if (group.learning_rate && *group.learning_rate <= 0)
    refuse_field(node["learning_rate"], place, "no learning rate", "a number above 0");
  if (group.weight_decay && *group.weight_decay < 0)
    refuse_field(node["weight_decay"], place, "a negative decay", "0 or a positive number");
  if (!group.moments.empty() &&
      std::ranges::find(moment_precision_names, group.moments) == moment_precision_names.end())
    refuse_word(node["moments"], place, "unknown precision of moments", moment_precision_names);
  if (group.name.empty() && !group.learning_rate && !group.weight_decay && group.moments.empty())
    refuse_field(node, place, "a group that changes nothing", "name, learning_rate, weight_decay or moments");
}

template <class Override>
using OverridesOf = std::vector<Override>& (*)(Settings&);

/// Calls use(list) with the list of the setting, whatever it overrides.
template <class Use>
auto with_overrides(const Setting& setting, Settings& settings, Use&& use) {
  if (const auto* of_precision = std::get_if<OverridesOf<PrecisionOverride>>(&setting.member))
    return use((*of_precision)(settings));
  if (const auto* of_optimizers = std::get_if<OverridesOf<OptimizerGroup>>(&setting.member))
    return use((*of_optimizers)(settings));
  return use(std::get<OverridesOf<GradientOverride>>(setting.member)(settings));
}

}  // namespace

bool is_structured(const Setting& setting) {
  return setting.type == SettingType::recipe || setting.type == SettingType::overrides ||
         setting.type == SettingType::recipes;
}

void assign_node(const Setting& setting, Settings& settings, const YAML::Node& node, const PlaceOf& place) {
  if (setting.type == SettingType::recipes)
    return read_list(node, place,
                     [&](const YAML::Node& entry) { define(settings, read_recipe(entry, place), entry, place); });
  if (setting.type == SettingType::overrides)
    return with_overrides(setting, settings, [&](auto& overrides) {
      overrides.clear();
      read_list(node, place, [&](const YAML::Node& entry) {
        read_yaml(entry, place, overrides.emplace_back());
        check_words(overrides.back(), entry, place);
      });
    });
  std::string name;
  if (node.IsMap()) {
    const Recipe written = read_recipe(node, place);
    define(settings, written, node, place);
    name = written.name;
  } else {
    read_yaml(node, place, name);
  }
  std::get<std::string& (*)(Settings&)>(setting.member)(settings) = name;
}

std::string print_overrides(const Setting& setting, Settings& settings) {
  return with_overrides(setting, settings, [](const auto& overrides) {
    std::vector<std::string> texts;
    for (const auto& rule : overrides) texts.push_back(print_yaml(rule));
    return fmt::format("[{}]", fmt::join(texts, ", "));
  });
}

std::string print_recipes(const std::vector<Recipe>& recipes) {
  std::vector<std::string> texts;
  for (const Recipe& recipe : recipes) texts.push_back(print_recipe(recipe));
  return fmt::format("[{}]", fmt::join(texts, ", "));
}

}  // namespace nibble
