// What the products of a quantized linear operator multiply: values, integers, or codes.
#include "quant/quantized_linear.hpp"
#include "tensor/convert.hpp"

namespace nibble {

DType QuantizedLinear::product_type(const Quantizer& a, const Quantizer& b) const {
  if (recipe_.operands == DType::f32) return DType::f32;
  if (a.integers() && b.integers()) return DType::i8;
  return a.exact_in_bf16() && b.exact_in_bf16() ? DType::bf16 : DType::f32;
}

/// Integers are exact sums of i8 everywhere.
bool QuantizedLinear::multiplies_codes(Stream& stream, Role a, Role b, int64_t cols, int64_t depth) const {
  const std::optional<CodedAs>&of_a = coded_[a], &of_b = coded_[b];
  return of_a && of_b && of_a->scales == of_b->scales && product_type(quantizer(a), quantizer(b)) == DType::bf16 &&
         nibble::multiplies_codes(stream, {of_a->format, of_b->format, of_a->scales}, cols, depth);
}

DType QuantizedLinear::forward_type(Stream& stream) const {
  return multiplies_codes(stream, input, weight, spec_.out, spec_.in)
             ? DType::u8
             : product_type(recipe_.forward.input, recipe_.forward.weight);
}

QuantizedLinear::Role QuantizedLinear::gradient_other_role(Role error) const {
  const bool by_input = error == input_error;
  if (gradient(error).other.quantizes()) return by_input ? input_other : weight_other;
  return by_input ? weight : input;
}
DType QuantizedLinear::gradient_type(Stream& stream, Role error) const {
  const GradientRecipe& row = gradient(error);
  const bool by_input = error == input_error, anew = row.other.quantizes();
  // Codes that the forward product multiplied may be turned, if blocks do not run along an axis; rotated they are none.
  const auto turns = [](const Quantizer& q) { return !q.blocks() || q.extent == Extent::square; };
  const bool carries_codes = row.source == Source::multiplied && !row.rotation && turns(carried(error)) &&
                             (!by_input || !left_ || turns(row.error));
  if ((anew || carries_codes) &&
      multiplies_codes(stream, error, gradient_other_role(error), spec_.in, by_input ? spec_.out : spec_.tokens))
    return DType::u8;
  return product_type(row.error, anew ? row.other : carried(error));
}
/// What is quantized anew is read as numbers; what is not goes into the product.
DType QuantizedLinear::carried_type(Stream& stream, Role error) const {
  return gradient(error).other.quantizes() ? product_type({}, carried(error)) : gradient_type(stream, error);
}

std::vector<DType> QuantizedLinear::product_types(Stream& stream) const {
  const DType ahead = forward_type(stream);
  if (spec_.tokens == 0) return {ahead};
  return {ahead, gradient_type(stream, input_error), gradient_type(stream, weight_error)};
}

/// With one scale for the tensor and nothing turned, both gradients multiply the same quantized error.
bool QuantizedLinear::errors_are_alike(Stream& stream) const {
  const auto& [by_input, by_weight, each] = recipe_.backward;
  return by_input.error.quantizes() && by_input.error == by_weight.error && by_input.error.extent == Extent::tensor &&
         by_input.error.scale == ScaleFormat::f32 && by_input.error.rounding == Rounding::nearest &&
         !by_input.rotation && !by_input.left && !by_weight.rotation &&
         gradient_type(stream, input_error) == gradient_type(stream, weight_error);
}

void QuantizedLinear::multiply(Stream& stream, LinearScratch& scratch, const Side& a, const Side& b, const Tensor& c,
                               const Tensor& addend, const Scaling& scaling) const {
  if (a.operand.parts.codes) {
    const uintptr_t mark = scratch.mark();
    const auto laid_out = [&](const Side& side, Transpose with_depth_last) {
      const Axis axis = side.transpose == with_depth_last ? Axis::cols : Axis::rows;
      return code_matrix(stream, side.operand, quantizer(side.role), *coded_[side.role], axis, scratch);
    };
    const CodeMatrix of_a = laid_out(a, Transpose::no), of_b = laid_out(b, Transpose::yes);
    if (!scratch.counts()) coded_gemm(stream, of_a, of_b, c, addend, scaling);
    scratch.back_to(mark);
    return;
  }
  // Operands may be f32, because bf16 would not hold them, where the result is bf16.
  const Tensor &of_a = a.operand.values, &of_b = b.operand.values;
  const bool narrow = of_a.dtype == DType::f32 && c.dtype != DType::f32;
  const Tensor sums = narrow ? scratch.take(DType::f32, c.rows, c.cols) : c;
  if (scratch.counts()) return;
  gemm(stream, of_a, a.transpose, of_b, b.transpose, sums, addend, scaling);
  if (narrow) convert(stream, sums, c);
}

}  // namespace nibble
