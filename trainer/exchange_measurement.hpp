// How fast sums and gathers over all ranks are, as a step makes them.
//
// Not for single links (trainer/link_measurement.hpp).
#pragma once

#include "comm/world.hpp"
#include "trainer/step_forecast.hpp"

namespace nibble {

/// The slowest rank's medians of several sums and gathers, while nothing else is computed; `core_share` is what they
/// take of a core, as if none were idle. All ranks call it and get
/// the same; zeros for one rank. Throws as Communicator::transfer.
ExchangeSpeed measure_exchange(World& world, Wire wire);

}  // namespace nibble
