// The contract between trainer/main.cpp and the commands of the program, one file each.
//
// add_X_command(app) adds the subcommand X: its options and a callback that does the work. A callback returns when all
// is well, throws Error (main prints it and ends with its exit code), or throws CLI::RuntimeError(code) to end quietly
// with a code that is no error, such as exit_interrupted. No command calls exit().
#pragma once

#include <CLI/CLI.hpp>

namespace nibble {

using AddCommand = void (*)(CLI::App& app);

}  // namespace nibble
