// What a library's double has of the emulation: launch.hpp, which defines CUDA's types once more, cannot be included
// beside the library's header.
#pragma once

#include <driver_types.h>

#include <functional>

#include "tensor/cuda/device.hpp"

namespace nibble::cuda {

/// What the double takes for a stream is the queue.
inline cudaStream_t stream_of(Queue& queue) { return reinterpret_cast<cudaStream_t>(&queue); }

namespace emulation {

/// As launch.hpp declares it.
void queue(Queue& queue, std::function<void()> work);

}  // namespace emulation

}  // namespace nibble::cuda
