// The largest value of each element over all ranks: what ranks share before they encode.
#pragma once

#include <span>

#include "comm/communicator.hpp"

namespace nibble {

/// The same on every rank afterwards. Magnitudes: no value is negative or a NaN. In the host's memory always.
/// Throws Error{communication} where a rank sends one that is, and as Communicator::transfer.
void max_all_reduce(Communicator& communicator, std::span<float> magnitudes);

}  // namespace nibble
