// `nibble train`.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_train_command(CLI::App& app);

}  // namespace nibble
