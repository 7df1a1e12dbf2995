// `nibble generate`, and the same for the sample at the end of `nibble train`.
#pragma once

#include <string>

#include "trainer/command.hpp"
#include "trainer/generation.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {

void add_generate_command(CLI::App& app);

/// Prints `prompt` and what the model writes after it. `precision` is that of `loaded.weights`; `threads` 0: all cores.
/// Throws Error{data} when the model has no tokenizer, Error{configuration} for a prompt longer than its context.
void print_generated(const LoadedModel& loaded, const Precision& precision, int threads, const std::string& prompt,
                     const SamplingOptions& sampling);

}  // namespace nibble
