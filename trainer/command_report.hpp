// `nibble report`.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_report_command(CLI::App& app);

}  // namespace nibble
