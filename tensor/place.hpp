// Where memory is.
#pragma once

#include <cstdint>

namespace nibble {

/// The host's, or that of the device whose kernels a stream queues.
enum class Place : uint8_t { host, device };

}  // namespace nibble
