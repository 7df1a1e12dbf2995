// `nibble tokenize`: text in, token shards out.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_tokenize_command(CLI::App& app);

}  // namespace nibble
