// `nibble capacity`: what number formats leave of a model's parameters, from their errors on normal values.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_capacity_command(CLI::App& app);

}  // namespace nibble
