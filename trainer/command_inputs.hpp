// nibble bench inputs: what it takes a GPU to make and quantize the inputs of linear layers.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

/// Adds it to `bench`.
void add_inputs_command(CLI::App& bench);

}  // namespace nibble
