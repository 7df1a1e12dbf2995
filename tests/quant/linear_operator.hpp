// A linear operator's forward and backward pass in one call.
#pragma once

#include "tests/quant/slow_linear.hpp"

namespace nibble {

/// A layer with its input, weights and error: normal values of bf16.
struct LinearOperands {
  LinearOperands(int64_t tokens, int64_t in, int64_t out);

  LinearSpec spec;
  reference::Matrix x, w, dy;
};

/// y under a residual of zeros and dx come in `results`: f32, or bf16 without a residual. `codes` (if given) stand for
/// w.
LinearResults run_linear(Linear& linear, const LinearOperands& operands, const LinearCall& call, DType given,
                         DType results, const Tensor& codes = {}, Place place = Place::host);
LinearResults run_linear(const Recipe& recipe, const LinearOperands& operands, const LinearCall& call,
                         DType results = DType::f32, Place place = Place::host);
LinearResults plain_linear(const LinearOperands& operands);

}  // namespace nibble
