// `nibble bench kernels`: what kernels of exchanges reach on a GPU.
#pragma once

#include <CLI/CLI.hpp>

namespace nibble {

void add_kernels_command(CLI::App& bench);

}  // namespace nibble
