// The last part of a matrix optimizer's step: along a direction that its owner computed.
//
// Not for: directions (muon.hpp, shampoo.hpp, soap.hpp).
#pragma once

#include "optim/kernels.hpp"

namespace nibble {

/// w *= 1 - lr wd, if it decays;   w -= lr scale direction: of this rank's part of a parameter, the direction too.
void descend(Stream& stream, OptimizedParameter parameter, const Tensor& direction, double scale, double weight_decay,
             double learning_rate);

}  // namespace nibble
