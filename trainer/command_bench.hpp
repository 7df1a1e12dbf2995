// nibble bench: the measurements that users want.
#pragma once

#include "trainer/command.hpp"

namespace nibble {

void add_bench_command(CLI::App& app);

}  // namespace nibble
