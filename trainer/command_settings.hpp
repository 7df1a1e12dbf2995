// `nibble settings`: the settings table as text or Markdown.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_settings_command(CLI::App& app);

}  // namespace nibble
