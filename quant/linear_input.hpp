// The input of a linear operator that nobody has made yet: the operator says what it needs.
//
// Whoever makes it, a norm or an activation, then leaves more than the matrix, the statistic that a quantizer looks for
// first, or instead of it the quantized operand alone: memory moves fewer bytes. Not for: inputs that are there
// (linear.hpp).
#pragma once

#include "quant/quantize.hpp"

namespace nibble {

class LinearInput {
 public:
  virtual ~LinearInput() = default;
  LinearInput(const LinearInput&) = delete;
  LinearInput& operator=(const LinearInput&) = delete;

  /// x[tokens, in], of the recipe's operand type, once it has been made.
  const Tensor& matrix() const { return matrix_; }
  /// Whether it is made again before the operator's backward pass, so that nobody need keep it.
  bool returns() const { return returns_; }

  virtual void make(Stream& stream) const = 0;
  /// The same, and tells its tensor_statistic without a rotation.
  virtual Scalar make_with_largest(Stream& stream) const = 0;
  /// quantize() of the matrix along its columns. It is made, too, if `keeps`, and may be if not.
  virtual Operand quantize(Stream& stream, bool keeps, const QuantizeArguments& arguments) const = 0;

 protected:
  LinearInput(const Tensor& matrix, bool returns) : matrix_(matrix), returns_(returns) {}

 private:
  Tensor matrix_;
  bool returns_;
};

}  // namespace nibble
