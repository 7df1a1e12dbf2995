// What kernels of compressed exchanges reach on a GPU, beside a copy in its memory.
//
// Not for: exchanges between ranks (exchange_measurement.hpp), kernels of a step (step_measurement.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/stream.hpp"

namespace nibble {

struct KernelRate {
  std::string kernel;
  double bytes = 0;    ///< that it must read and write
  double seconds = 0;  ///< of one call behind others: the best of several bursts

  double gb_per_second() const { return bytes / seconds * 1e-9; }
};

/// The first is the copy, of as many floats as the vectors have that the others work on: normally distributed ones.
/// Throws Error{resource} where the device has no memory for some four vectors.
std::vector<KernelRate> measure_exchange_kernels(Stream& device, int64_t elements);

}  // namespace nibble
