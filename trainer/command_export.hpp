// nibble export CHECKPOINT|RUN: a trained model as a folder that other programs load.
//
// Not for: the formats themselves (huggingface.hpp).
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_export_command(CLI::App& app);

}  // namespace nibble
