// `nibble bench allreduce`: what sums of gradients cost between the ranks that were started.
#pragma once

#include <CLI/CLI.hpp>

namespace nibble {

void add_allreduce_command(CLI::App& bench);

}  // namespace nibble
