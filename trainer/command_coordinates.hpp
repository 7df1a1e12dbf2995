// `nibble coordinates`.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_coordinates_command(CLI::App& app);

}  // namespace nibble
