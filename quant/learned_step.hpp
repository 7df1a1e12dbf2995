// Steps that training learns: where they begin, and their gradients through the rounding.
//
// x ~ s round(x / s) within the levels, s times the outermost level beyond. A parameter is ln s: it stays positive, and
// the same learning rate suits steps of every size, as what it changes is their ratio; d / d ln s = s d / d s.
// Sources: LSQ (Esser et al., arXiv 1902.08153, sections 2.1 and 2.2), PACT (Choi et al., arXiv 1805.06085, section 3).
// Not for: the products (quantized_linear.hpp).
#pragma once

#include "quant/quantizer.hpp"
#include "tensor/scalar.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// ln of LSQ's first step, 2 mean |x| / sqrt(largest level). x: bf16 or f32.
Scalar initial_log_step(Stream& stream, const Quantizer& quantizer, const Tensor& x);

/// e^log_step: of a double, rounded, so that devices have the host's.
Scalar step_of(Stream& stream, const Scalar& log_step);

/// d loss / d ln s, where `gradient` (f32, of x's shape) is d loss / d (the quantized x), passed straight through the
/// rounding. LSQ divides it by sqrt(elements largest level). The same for every number of threads.
Scalar log_step_gradient(Stream& stream, const Quantizer& quantizer, const Scalar& log_step, const Tensor& x,
                         const Tensor& gradient);

}  // namespace nibble
