// The global gradient norm, the clip factor, and whether a gradient may be used at all.
#pragma once

#include <span>

#include "optim/optimizer.hpp"

namespace nibble {

/// The Euclidean norm over all parameters (a tied embedding counts once, padding never). Squares are added in double,
/// block by block in the order of the parameters, so the result does not depend on the number of threads.
/// It is NaN or infinite exactly when an element is: the square of a finite float never overflows a double.
double gradient_norm(Stream& stream, std::span<const OptimizedParameter> parameters);

/// min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. `max_norm` 0: no clipping, 1.
double clip_factor(double norm, double max_norm);

}  // namespace nibble
