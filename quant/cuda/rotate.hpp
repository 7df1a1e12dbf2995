// Hadamard transforms of matrices whose blocks do not fit into a block's memory: several passes through the device's.
#pragma once

#include "quant/cuda/rotate_tile.hpp"
#include "tensor/cuda/stream_memory.hpp"

namespace nibble::cuda {

/// The rotated matrix, dense f32, in working memory of the stream: until the next call. Not for order 1.
Tensor rotated_in_memory(Stream& stream, const Operand& x, Axis axis, const DeviceRotation& rotation,
                         const OnTheWay& way);

}  // namespace nibble::cuda
