// `nibble fit`.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_fit_command(CLI::App& app);

}  // namespace nibble
