// The recipes of a run, from its settings.
#pragma once

#include "quant/precision.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// Throws Error{configuration} for what no recipe says.
Precision precision_of(const Settings& settings);

}  // namespace nibble
