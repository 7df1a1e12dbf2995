// Constant and random contents.
#pragma once

#include "tensor/random.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// Every element of x (f32) becomes `value`; paddings are not touched.
void fill(Stream& stream, const Tensor& x, float value);

/// Every element of x (f32, packed) becomes deviation times a standard normal: element e takes number e of `random`.
void fill_normal(Stream& stream, const RandomStream& random, float deviation, const Tensor& x);

}  // namespace nibble
