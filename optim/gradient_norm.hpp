// The global gradient norm, the clip factor, and whether a gradient may be used at all.
#pragma once

#include <span>
#include <vector>

#include "optim/optimizer.hpp"

namespace nibble {

/// The sum of the squares in each block of the gradients (f32 or bf16, packed), in double: of one rank's own part, in
/// order.
std::vector<double> gradient_square_sums(Stream& stream, std::span<const Tensor> gradients);

/// The Euclidean norm, from the sums of all blocks in the order of the parameters, so that it depends neither on the
/// number of threads nor of ranks. It is NaN or infinite exactly when an element is: the square of a finite float never
/// overflows a double.
double gradient_norm(std::span<const double> square_sums);

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. `max_norm` 0: no clipping, 1.
double clip_factor(double norm, double max_norm);

}  // namespace nibble
