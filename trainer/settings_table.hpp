// The settings table: each setting once, with its key, type, range, help and the member that it fills.
//
// YAML parsing, --set, --help, the reference page and the complete configuration all iterate this table; the default is
// the member's initialiser. Not for what several settings mean together (trainer/resolve.hpp).
#pragma once

#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "trainer/settings.hpp"

namespace nibble {

enum class SettingType {
  count,
  real,
  share,
  duration,
  boolean,
  choice,
  text,
  path,
  list,
  steps_or_share,
  recipe,     ///< a name, or a recipe written out, which goes into precision.recipes
  overrides,  ///< of precision, exchanges or optimizers, and recipes: read by structured_settings.hpp
  recipes
};

/// The values a number may have.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_excluded = false, high_excluded = false;

  bool contains(double value) const {
    return (low_excluded ? value > low : value >= low) && (high_excluded ? value < high : value <= high);
  }
};

/// The member of Settings behind a key.
using SettingMember =
    std::variant<int64_t& (*)(Settings&), double& (*)(Settings&), bool& (*)(Settings&), std::string& (*)(Settings&),
                 std::vector<std::string>& (*)(Settings&), StepsOrShare& (*)(Settings&),
                 std::vector<PrecisionOverride>& (*)(Settings&), std::vector<GradientOverride>& (*)(Settings&),
                 std::vector<OptimizerGroup>& (*)(Settings&), std::vector<Recipe>& (*)(Settings&)>;

struct Setting {
  std::string key;  ///< "optimizer.learning_rate"
  SettingType type;
  SettingMember member;
  std::string help;  ///< one line; says the unit, and what 0 or empty means
  Range range{};
  std::vector<std::string> choices{};
  /// Part of a run's identity: with another value the same run would give other numbers, or the checkpoint would not
  /// fit, from the first step after a resume. What a person may change half-way (how long, how often, where) is not.
  bool identity = false;
};

/// Every setting, in the order in which they are printed; those of a section stand together, its own sections last.
const std::vector<Setting>& settings_table();

/// nullptr if there is none of that key.
const Setting* find_setting(std::string_view key);

/// Whether settings lie below the key: "model", "run.checkpoint".
bool is_section(std::string_view key);

/// What a section of the table is about; empty for a key that is none.
std::string_view section_help(std::string_view section);

/// The setting or section nearest to a key that is neither: by spelling, or the same name in another section.
/// Empty where nothing is near.
std::string nearest_key(std::string_view key);

/// The values that a setting accepts: "a whole number, at least 1", for messages with examples: "(500, 2k, 0.75B)".
std::string allowed_values(const Setting& setting, bool with_examples = true);

/// Parses `text` into the member. Throws ValueError (trainer/units.hpp) for a wrong type, unit, range or choice;
/// a list takes "a, b" with or without brackets.
void assign(const Setting& setting, Settings& settings, std::string_view text);

/// Fills a list. Throws ValueError for a setting that is none, or for an empty entry.
void assign_list(const Setting& setting, Settings& settings, const std::vector<std::string>& entries);

/// The member's value as a YAML scalar or in flow style, that `assign`, or the YAML reader, turns into the same value.
std::string format_value(const Setting& setting, const Settings& settings);

}  // namespace nibble
