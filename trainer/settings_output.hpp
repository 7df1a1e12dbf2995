// The settings table as text for people: resolved configuration, --help, reference page, differences of two runs.
#pragma once

#include <string>
#include <vector>

#include "trainer/settings.hpp"

namespace nibble {

/// The complete configuration as YAML, each line with its help as a comment; parse_settings gives the same settings.
std::string settings_yaml(const Settings& settings);

/// The table for `nibble train --help` (a CLI11 footer): key, default, allowed values, help.
std::string settings_help();

/// The reference page in Markdown: one table for each section.
std::string settings_markdown();

/// A setting that has another value in a second configuration, both as YAML scalars.
struct SettingDifference {
  std::string key, then, now;
  bool identity = false;  ///< part of the run's identity: a resumed run cannot have another value
};

/// In the order of the table; a resume refuses those with `identity` and prints the others.
std::vector<SettingDifference> setting_differences(const Settings& then, const Settings& now);

}  // namespace nibble
