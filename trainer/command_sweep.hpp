// nibble sweep: many runs from one file, pulled by any number of processes.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_sweep_command(CLI::App& app);

}  // namespace nibble
