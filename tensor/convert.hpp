// Copies between element types, strides and places.
#pragma once

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// to[rows, cols] = from[rows, cols]; each is f32 or bf16 (rounded to nearest even). Paddings are not touched.
void convert(Stream& stream, const Tensor& from, const Tensor& to);

/// The same elements in memory of another place or stride; of one type and shape. A stream of a device copies from and
/// to any memory, when its turn comes (Stream::wait).
void copy(Stream& stream, const Tensor& from, const Tensor& to);

/// into += from, both f32 of equal shape.
void add(Stream& stream, const Tensor& from, const Tensor& into);

/// into = (a + b) / 2, all of one element type, f32 or bf16 (rounded to nearest even), and of equal shape.
void middle(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& into);

}  // namespace nibble
