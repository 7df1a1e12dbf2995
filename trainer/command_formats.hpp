// `nibble formats`: number formats and quantizers, measured beside their reference.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_formats_command(CLI::App& app);

}  // namespace nibble
