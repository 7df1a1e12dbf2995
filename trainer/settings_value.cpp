// The values of the settings table: parsing, range checks and formatting by type.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>

#include "data/tokenizer.hpp"
#include "trainer/nearest.hpp"
#include "trainer/settings_table.hpp"
#include "trainer/structured_settings.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

template <class T>
T& member(const Setting& setting, Settings& settings) {
  return std::get<T& (*)(Settings&)>(setting.member)(settings);
}

struct KindOfValue {
  std::string_view name, examples;
};

KindOfValue kind_of_value(SettingType type) {
  switch (type) {
    case SettingType::count:
      return {"a whole number", "500, 2k, 1.5M, 0.75B"};
    case SettingType::real:
      return {"a number", "0.1, 1.2e-3"};
    case SettingType::share:
      return {"a share", "10%, 0.1"};
    case SettingType::duration:
      return {"a duration", "90s, 30min, 2h, 1d"};
    case SettingType::boolean:
      return {"true or false", ""};
    case SettingType::choice:
      return {"one of", ""};
    case SettingType::text:
      return {"text", ""};
    case SettingType::path:
      return {"a path", ""};
    case SettingType::list:
      return {"a list", "[a, b]"};
    case SettingType::steps_or_share:
      return {"steps, or a share of all steps", "500, 2k, 10%"};
    case SettingType::recipe:
      return {"a recipe's name, or {name: ..., forward: ..., backward: ...}", "quartet2, quest-w4a4"};
    case SettingType::overrides:
      return {"a list of maps", "[{layers: last 2, ...}]"};
    case SettingType::recipes:
      return {"a list of recipes written out", "[{name: mine, forward: {input: nvfp4, weight: nvfp4}}]"};
  }
  return {};
}

std::string range_text(const Range& range) {
  constexpr double open_end = 1e15;  // a technical bound that nobody needs to read
  std::string text;
  if (range.low > -open_end) text += fmt::format("{} {}", range.low_excluded ? "above" : "at least", range.low);
  if (range.high < open_end)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", range.high_excluded ? "below" : "at most", range.high);
  return text;
}

void check_range(const Setting& setting, double value) {
  if (!setting.range.contains(value)) throw ValueError{"out of range"};
}

template <class T>
void assign_number(const Setting& setting, Settings& settings, T value) {
  check_range(setting, static_cast<double>(value));
  member<T>(setting, settings) = value;
}

void assign_steps_or_share(const Setting& setting, Settings& settings, const StepsOrShare& value) {
  if (value.is_share) {
    if (value.value < 0 || value.value > 1) throw ValueError{"out of range"};
  } else {
    check_range(setting, value.value);
  }
  member<StepsOrShare>(setting, settings) = value;
}

void assign_choice(const Setting& setting, Settings& settings, std::string_view text) {
  if (std::ranges::find(setting.choices, text) == setting.choices.end()) {
    const std::string near = nearest(text, setting.choices);
    throw ValueError{near.empty() ? "unknown choice" : fmt::format("unknown choice; did you mean '{}'?", near)};
  }
  member<std::string>(setting, settings) = text;
}

/// Texts go into config.yaml and have to come back from it; YAML holds UTF-8, and the system's paths end at a zero
/// byte.
void check_text(std::string_view text) {
  if (find_invalid_utf8(text) != std::string_view::npos) throw ValueError{"not UTF-8"};
  if (text.find('\0') != std::string_view::npos) throw ValueError{"a zero byte in a text"};
}

std::string in_quotes(const std::string& text) {
  YAML::Emitter out;
  out << YAML::DoubleQuoted << text;
  return out.c_str();
}

/// A recipe's name that YAML reads without quotes.
bool is_word(const std::string& text) {
  return !text.empty() &&
         std::ranges::all_of(text, [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; });
}

/// "[a, 'b c']" or "a, b c" as entries.
std::vector<std::string> split_list(std::string_view text) {
  if (text.starts_with('[') && text.ends_with(']')) text = text.substr(1, text.size() - 2);
  std::vector<std::string> entries;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    std::string_view entry = text.substr(0, comma);
    const size_t first = entry.find_first_not_of(" '\""), last = entry.find_last_not_of(" '\"");
    entries.emplace_back(first == std::string_view::npos ? "" : entry.substr(first, last - first + 1));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return entries;
}

}  // namespace

std::string allowed_values(const Setting& setting, bool with_examples) {
  const auto& [name, examples] = kind_of_value(setting.type);
  if (setting.type == SettingType::choice) return fmt::format("{} {}", name, fmt::join(setting.choices, ", "));
  const std::string range = range_text(setting.range);
  return fmt::format("{}{}{}{}", name, range.empty() ? "" : ", ", range,
                     with_examples && !examples.empty() ? fmt::format(" ({})", examples) : "");
}

void assign(const Setting& setting, Settings& settings, std::string_view text) {
  switch (setting.type) {
    case SettingType::count:
      return assign_number(setting, settings, parse_count(text));
    case SettingType::real:
      return assign_number(setting, settings, parse_real(text));
    case SettingType::share:
      return assign_number(setting, settings, parse_share(text));
    case SettingType::duration:
      return assign_number(setting, settings, parse_duration(text));
    case SettingType::steps_or_share:
      return assign_steps_or_share(setting, settings, parse_steps_or_share(text));
    case SettingType::choice:
      return assign_choice(setting, settings, text);
    case SettingType::list:
      return assign_list(setting, settings, split_list(text));
    case SettingType::boolean:
      if (text != "true" && text != "false") throw ValueError{"not a boolean"};
      member<bool>(setting, settings) = text == "true";
      return;
    case SettingType::text:
    case SettingType::path:
    case SettingType::recipe:
      check_text(text);
      member<std::string>(setting, settings) = text;
      return;
    case SettingType::overrides:
    case SettingType::recipes:
      throw ValueError{"one value where a list of maps belongs"};
  }
}

void assign_list(const Setting& setting, Settings& settings, const std::vector<std::string>& entries) {
  if (setting.type != SettingType::list) throw ValueError{"a list where one value belongs"};
  if (std::ranges::find(entries, "") != entries.end()) throw ValueError{"an empty entry"};
  for (const std::string& entry : entries) check_text(entry);
  member<std::vector<std::string>>(setting, settings) = entries;
}

std::string format_value(const Setting& setting, const Settings& settings) {
  Settings copy = settings;  // members are reached through a mutable reference
  switch (setting.type) {
    case SettingType::count:
      return fmt::format("{}", member<int64_t>(setting, copy));
    case SettingType::real:
    case SettingType::share:
      return format_real(member<double>(setting, copy));
    case SettingType::duration:
      return format_duration_setting(member<double>(setting, copy));
    case SettingType::boolean:
      return member<bool>(setting, copy) ? "true" : "false";
    case SettingType::choice:
      return member<std::string>(setting, copy);
    case SettingType::text:
    case SettingType::path:
      return in_quotes(member<std::string>(setting, copy));
    case SettingType::recipe: {
      const std::string& name = member<std::string>(setting, copy);
      return is_word(name) ? name : in_quotes(name);
    }
    case SettingType::overrides:
      return print_overrides(setting, copy);
    case SettingType::recipes:
      return print_recipes(member<std::vector<Recipe>>(setting, copy));
    case SettingType::steps_or_share:
      return format_steps_or_share(member<StepsOrShare>(setting, copy));
    case SettingType::list: {
      std::string entries;
      for (const std::string& entry : member<std::vector<std::string>>(setting, copy))
        entries += (entries.empty() ? "" : ", ") + in_quotes(entry);
      return "[" + entries + "]";
    }
  }
  return {};
}

}  // namespace nibble
