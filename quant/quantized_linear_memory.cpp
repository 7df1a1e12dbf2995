// What a quantized linear operator saves of its input, and its working memory.
#include <algorithm>

#include "quant/quantized_linear.hpp"

namespace nibble {

bool QuantizedLinear::keeps_input() const { return saved_input_ == SavedInput::given; }

void QuantizedLinear::take_saved(Arena& arena, int64_t tokens, LinearSaved& saved) const {
  take_saved_input(arena, recipe_, spec_, tokens, saved);
}

size_t QuantizedLinear::scratch_bytes(Stream& stream, int64_t tokens) const {
  QuantizedLinear counted(recipe_, spec_);
  // Of what a call is given, its types and shapes count.
  LinearScratch given = LinearScratch::counting();
  const auto operand = [&](int64_t rows, int64_t cols) { return given.take(recipe_.operands, rows, cols); };
  const Tensor x = operand(tokens, spec_.in), w = operand(spec_.out, spec_.in), y = operand(tokens, spec_.out),
               dw = given.take(DType::f32, spec_.out, spec_.in);
  LinearSaved saved;
  if (spec_.tokens > 0) take_saved_input(given, recipe_, spec_, tokens, saved);
  saved.input = x;
  size_t most = 0;
  const auto count = [&](auto&& call) {
    LinearScratch scratch = LinearScratch::counting();
    call(scratch);
    most = std::max(most, scratch.most());
  };
  count([&](LinearScratch& scratch) { counted.forward(stream, {}, x, {}, w, y, {}, nullptr, scratch); });
  if (spec_.tokens == 0) return most;
  count([&](LinearScratch& scratch) { counted.forward(stream, {}, x, {}, w, y, {}, &saved, scratch); });
  count([&](LinearScratch& scratch) { counted.backward(stream, {}, y, w, saved, x, dw, scratch); });
  count([&](LinearScratch& scratch) { counted.weight_residual(stream, {}, w, dw, scratch); });
  return most;
}

/// The same bits that the backward pass would make of x, which then need not be kept.
void QuantizedLinear::save_other(Stream& stream, const LinearCall& call, const Tensor& x, const LinearSaved& saved,
                                 LinearScratch& scratch) {
  const uintptr_t mark = scratch.mark();
  LinearCall again = call;  // the product of this pass takes the statistics of its operand
  again.pass = Pass::recomputing;
  const Operand x_hat = carried_over(stream, again, weight_error, x, scratch, {});
  const QuantizedParts parts{.codes = saved.parts.codes, .scales = saved.parts.scales};
  const Operand other = gradient_other(stream, call, weight_error, x_hat, scratch, parts);
  if (!scratch.counts()) save_scales(stream, other, saved);
  scratch.back_to(mark);
}

Operand QuantizedLinear::unpacked(Stream& stream, const Quantizer& quantizer, const QuantizedParts& parts, Axis axis,
                                  DType type, int64_t rows, LinearScratch& scratch) const {
  const Tensor& codes = parts.codes;
  if (type == DType::u8) return {.parts = {.codes = codes, .scales = parts.scales}, .axis = axis};
  if (axis == Axis::cols && type == DType::i8 && quantizer.element->bits() == 8)  // as they are
    return {.values = Tensor(DType::i8, codes.data, codes.rows, codes.cols, codes.stride, codes.place)};
  const Tensor values = scratch.take(type, rows, spec_.in);
  if (!scratch.counts()) restore(stream, quantizer, parts, values, axis);
  return {.values = values};
}

/// What was saved as codes: of the operand of y, or, along the tokens, of that of dw.
Operand QuantizedLinear::restored(Stream& stream, const LinearSaved& saved, int64_t tokens, LinearScratch& scratch) {
  const bool of_other = saved_input_ == SavedInput::other;
  Operand operand =
      unpacked(stream, quantizer(of_other ? weight_other : input), saved.parts, of_other ? Axis::rows : Axis::cols,
               of_other ? gradient_type(stream, weight_error) : carried_type(stream, weight_error), tokens, scratch);
  (of_other ? operand.col_scale : operand.row_scale) = saved.row_scale;
  if (!scratch.counts()) operand.factor = number_in(saved.factor);
  return operand;
}

}  // namespace nibble
