// nibble doctor: what could keep a run's ranks from working together.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_doctor_command(CLI::App& app);

}  // namespace nibble
