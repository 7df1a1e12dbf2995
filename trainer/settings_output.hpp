// The settings table as text for people: complete configuration, --help, reference page, differences of two runs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "trainer/settings.hpp"

namespace nibble {

/// What a run made of its settings, for a reader: "shape" and "8 layers of width 512".
using ResolvedLines = std::vector<std::pair<std::string, std::string>>;

/// The complete configuration with defaults as YAML, each line with its help as a comment; parse_settings gives the
/// same settings. `resolved`, if any, follows as a comment: what stands as 0 above and what else was worked out.
std::string settings_yaml(const Settings& settings, const ResolvedLines& resolved = {});

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
