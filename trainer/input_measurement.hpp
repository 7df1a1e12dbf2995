// What it takes a GPU to make the quantized input of a linear layer, in separate calls and as training does it
// (quant/linear_input.hpp).
//
// Not for: whole steps (step_measurement.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/recipe.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// A way to make it: the seconds of one input, and the bytes that memory must move for it.
struct InputWay {
  double seconds = 0, bytes = 0;
  double bandwidth() const { return bytes / seconds * 1e-9; }  ///< GB/s
};

struct InputMeasurement {
  std::string recipe;
  const char* made_by;  ///< "rms_norm": of an f32 residual stream; "swiglu": of bf16
  InputWay separate, at_once;
};

/// Of bf16 inputs [tokens, width] of a layer [width, width] of each recipe, whose blocks and rotations must fit the
/// width: what the stream's product multiplies of them and what backward reads, but for codes that are made of the
/// matrix afterwards either way. Recipes whose input is made first in training, too, are left out. The best of several
/// times.
std::vector<InputMeasurement> measure_inputs(Stream& stream, const std::vector<Recipe>& recipes, int64_t tokens,
                                             int64_t width);

}  // namespace nibble
