// `nibble eval`.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_eval_command(CLI::App& app);

}  // namespace nibble
