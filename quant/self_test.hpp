// What quantizers, rotations and their kernels must do, checked on this machine in a fraction of a second, so that no
// run trains with arithmetic that errs.
//
// Not for: errors to a hundredth (format_measurement.hpp), the bits of every recipe (tests/quant).
#pragma once

#include <string>
#include <vector>

#include "quant/format_table.hpp"
#include "quant/hadamard.hpp"
#include "quant/recipe.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// What rounds one operand of a linear layer's three products.
struct OperandQuantizer {
  std::string operand;  ///< "x of the forward product"
  Quantizer quantizer;
};
/// All six of a recipe, those that do not quantize too.
std::vector<OperandQuantizer> quantizers_of(const Recipe& recipe);

struct SelfTestFailure {
  std::string what;      ///< "quartet: dy of the weight gradient"
  std::string property;  ///< "stochastic rounding is unbiased"
  std::string seen;
  std::string allowed;
};

/// Codes, rounding at and beside every midpoint, the largest value; scalar arithmetic and kernel alike.
std::vector<SelfTestFailure> self_test(Stream& stream, const ElementFormat& format);
/// Zero, huge and poisoned blocks, the block worked out by hand, bias, and the error that others measured, where the
/// row has one.
std::vector<SelfTestFailure> self_test(Stream& stream, const QuantizerRow& row);
/// A transform behind random signs: orthonormal, and undone by unrotate().
std::vector<SelfTestFailure> self_test(Stream& stream, const Hadamard& hadamard);

/// All that `recipes` use; a rotation of full width is tested at `widths`.
std::vector<SelfTestFailure> self_test(Stream& stream, const std::vector<Recipe>& recipes,
                                       const std::vector<int64_t>& widths);
/// Throws Error{numerics} that names the first failure.
void require_sound(Stream& stream, const std::vector<Recipe>& recipes, const std::vector<int64_t>& widths);

}  // namespace nibble
