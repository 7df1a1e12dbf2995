// Settings from nodes of a YAML document that holds other things beside them (sweep_file.hpp).
//
// Not for a file that is a run's configuration and nothing else (yaml_settings.hpp).
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>
#include <string_view>

#include "trainer/resolve.hpp"
#include "trainer/settings.hpp"
#include "trainer/settings_table.hpp"

namespace nibble {

/// Settings as they were given, with where each came from; validate(settings, origins) judges the whole.
struct GivenSettings {
  Settings settings;
  SettingOrigins origins;
};

/// A document that is a map, or empty. `name` stands for the file in messages.
/// Throws Error{configuration}: more than 256 KiB or 16 levels, YAML syntax, several documents, no map.
YAML::Node load_yaml(std::string_view yaml, const std::string& name);
/// The same from a file.
YAML::Node load_yaml_file(const std::string& file);

/// A map of settings and sections. Throws Error{configuration}: unknown or repeated key, wrong type, unit or range.
GivenSettings read_settings(const YAML::Node& map, const std::string& name);

/// Another value for one setting. Throws Error{configuration}.
void give_setting(GivenSettings& given, const Setting& setting, const YAML::Node& value, const std::string& where);

/// Throws Error{configuration} with the nearest valid key.
[[noreturn]] void refuse_unknown_setting(const std::string& key, const std::string& where);

}  // namespace nibble
