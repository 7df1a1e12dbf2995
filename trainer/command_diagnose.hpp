// `nibble diagnose`.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_diagnose_command(CLI::App& app);

}  // namespace nibble
