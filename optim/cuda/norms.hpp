// Sums of squares and factors that stay on the device, so that the host waits for no norm.
#pragma once

#include <span>

#include "optim/kernels.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

/// gradient_square_sums, in the device's memory.
void queue_square_sums(Stream& stream, std::span<const Tensor> gradients, std::span<const TensorBlock> blocks,
                       double* sums);

/// scale_into, by a factor in the device's memory.
void scale_into(Stream& stream, const Tensor& from, const float* factor, bool transpose, const Tensor& to);

}  // namespace nibble::cuda
