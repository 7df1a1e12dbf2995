// Settings from a YAML file and from --set key=value.
//
// Every error says file, line and column; an unknown key is answered with the nearest valid one. Relative paths are
// relative to the working directory, as everywhere on the command line. Opens no file that the settings name.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/settings.hpp"

namespace nibble {

/// Reads `file`, applies `overrides` ("a.b=c", the later wins) and checks the whole (validate in trainer/resolve.hpp).
/// Throws Error{configuration}: unreadable file, more than 256 KiB or 16 levels, YAML syntax, unknown or repeated key,
/// wrong type, unit or range, contradictory settings.
Settings load_settings(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

/// The same from text; `name` stands for the file in messages.
Settings parse_settings(std::string_view yaml, const std::string& name, const std::vector<std::string>& overrides = {});

}  // namespace nibble
