// Picks a kernel's template instance for the element type of its GEMM operands.
#pragma once

#include "tensor/dtype.hpp"
#include "tensor/error.hpp"

namespace nibble {

/// Calls body(T{}) with T = float or bf16.
template <class Body>
void with_operand_type(DType type, Body&& body) {
  if (type == DType::f32) return body(float{});
  if (type == DType::bf16) return body(bf16{});
  throw Error(
      {.kind = ErrorKind::internal, .what = "kernel operands are f32 or bf16", .seen = std::string(name(type))});
}

}  // namespace nibble
