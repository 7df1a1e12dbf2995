// `nibble generate`.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_generate_command(CLI::App& app);

}  // namespace nibble
