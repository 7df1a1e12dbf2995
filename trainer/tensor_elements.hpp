// Elements of a matrix by their row-major number, whatever the padding between its rows.
//
// Checkpoints cut tensors into runs of elements; only the owner of a tensor knows how its rows lie in memory.
// Not for arithmetic.
#pragma once

#include <cstdint>
#include <optional>

#include "tensor/tensor.hpp"

namespace nibble {

/// Elements [first, first + count) as a view [1, count]; none where padding lies between them.
std::optional<Tensor> view_elements(const Tensor& tensor, int64_t first, int64_t count);

/// into [1, n] = elements [first, first + n), of the same element type.
void get_elements(const Tensor& tensor, int64_t first, const Tensor& into);

/// Elements [first, first + n) = values [1, n], of the same element type, or f32 rounded to bf16 (nearest even).
void set_elements(const Tensor& tensor, int64_t first, const Tensor& values);

}  // namespace nibble
