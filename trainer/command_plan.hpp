// nibble plan: what a run would take, without training.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_plan_command(CLI::App& app);

}  // namespace nibble
