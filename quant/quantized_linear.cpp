#include "quant/quantized_linear.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "quant/learned_step.hpp"
#include "quant/linear_fit.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"

namespace nibble {
namespace {

const Hadamard* address(const std::optional<Hadamard>& hadamard) { return hadamard ? &*hadamard : nullptr; }

}  // namespace

QuantizedLinear::QuantizedLinear(const Recipe& recipe, const LinearSpec& spec)
    : recipe_(recipe), spec_(spec), saved_input_(saved_input(recipe, spec)) {
  const std::string place = fmt::format("precision, recipe {}, {}", recipe.name, spec.name);
  const auto& [rotation, input_quantizer, weight_quantizer] = recipe_.forward;
  features_ = hadamard_of(rotation, spec.in, place, "input features");
  for (const Quantizer* quantizer : {&input_quantizer, &weight_quantizer})
    require_fits(*quantizer, spec.in, place, "input features");
  for (int role = 0; role < roles; ++role) {
    delayed_.emplace_back(quantizer(static_cast<Role>(role)).history);
    coded_.push_back(coded_as(quantizer(static_cast<Role>(role))));
  }
  if (spec.tokens == 0) return;
  const auto& [by_input, by_weight, each] = recipe_.backward;
  require_foldable(weight_quantizer, by_input, recipe.name);
  require_foldable(input_quantizer, by_weight, recipe.name);
  outputs_ = hadamard_of(by_input.rotation, spec.out, place, "output features");
  left_ = hadamard_of(by_input.left, spec.tokens, place, "tokens of a micro-batch");
  tokens_ = hadamard_of(by_weight.rotation, spec.tokens, place, "tokens of a micro-batch");
  for (const Quantizer* quantizer : {&by_input.error, &by_input.other})
    require_fits(*quantizer, spec.out, place, "output features");
  for (const Quantizer* quantizer : {&by_weight.error, &by_weight.other})
    require_fits(*quantizer, spec.tokens, place, "tokens of a micro-batch");
}

const Quantizer& QuantizedLinear::quantizer(Role role) const {
  const std::array<const Quantizer*, roles> all = {&recipe_.forward.input,         &recipe_.forward.weight,
                                                   &recipe_.backward.input.error,  &recipe_.backward.input.other,
                                                   &recipe_.backward.weight.error, &recipe_.backward.weight.other};
  return *all[role];
}

void QuantizedLinear::state(StateList& list) {
  static constexpr const char* names[roles] = {"input",       "weight",       "input_error",
                                               "input_other", "weight_error", "weight_other"};
  for (size_t role = 0; role < roles; ++role)
    if (delayed_[role].used())
      delayed_[role].state(list, fmt::format("quantizers/{}/{}/amax_history", spec_.name, names[role]));
}
void QuantizedLinear::statistics(std::vector<float*>& list) {
  for (DelayedStatistic& delayed : delayed_)
    if (delayed.used()) list.push_back(&delayed.seen());
}
void QuantizedLinear::commit() {
  for (DelayedStatistic& delayed : delayed_)
    if (delayed.used()) delayed.commit();
}
void QuantizedLinear::discard() {
  for (DelayedStatistic& delayed : delayed_) delayed.discard();
}

std::vector<float> QuantizedLinear::signs_of(const LinearCall& call, const Rotation& rotation, int64_t depth,
                                             uint32_t product) const {
  const RandomStream random(spec_.seed, Purpose::rotation_signs, static_cast<uint32_t>(call.step),
                            spec_.id * roles + (recipe_.backward.signs_for_each_product ? product : 0));
  return rotation_signs(rotation.signs, rotation.over(depth), random, static_cast<uint64_t>(call.micro_batch));
}

Operand QuantizedLinear::make_operand(Stream& stream, const LinearCall& call, Role role, const Operand& x, Axis axis,
                                      const Hadamard* hadamard, std::span<const float> signs, DType type,
                                      LinearScratch& scratch, const QuantizedParts& parts, const ToMake& made) {
  const Quantizer& q = quantizer(role);
  const bool as_it_is = !q.quantizes() && !hadamard && !x.row_scale && !x.col_scale && x.values.dtype == type;
  if (as_it_is) return x;
  const int64_t outer = axis == Axis::cols ? x.values.rows : x.values.cols,
                depth = axis == Axis::cols ? x.values.cols : x.values.rows;
  const bool codes = type == DType::u8;
  const Tensor values = codes ? Tensor() : scratch.take(type, x.values.rows, x.values.cols);
  QuantizedParts written = parts;
  if (codes && !written.codes) {
    written.codes = scratch.take(DType::u8, outer, depth / 8 * q.element->bits());
    if (q.blocks()) written.scales = scratch.take(DType::u8, outer, depth / q.group);
  }
  const auto with_codes = [&](Operand operand) {
    if (codes) operand.parts = {.codes = written.codes, .scales = written.scales};
    operand.axis = axis;
    return operand;
  };
  const Tensor scale = q.extent == Extent::row && q.quantizes() ? scratch.take(DType::f32, 1, outer) : Tensor();
  if (scratch.counts()) {
    Operand counted{.values = values};
    (axis == Axis::cols ? counted.row_scale : counted.col_scale) = scale;
    return with_codes(counted);
  }
  const auto step = static_cast<uint32_t>(call.step), id = spec_.id * roles + role;
  const Quantization how{.quantizer = q,
                         .axis = axis,
                         .hadamard = hadamard,
                         .signs = signs,
                         .rounding = RandomStream(spec_.seed, Purpose::rounding, step, id),
                         .scale_rounding = RandomStream(spec_.seed, Purpose::scale_rounding, step, id),
                         .part = static_cast<uint32_t>(call.micro_batch)};
  Scalar statistic = q.learns() ? this->step(stream, call, role, x.values) : Scalar();
  if (q.needs_tensor_statistic()) {
    if (role == weight && call.weight_magnitude) statistic = *call.weight_magnitude;
    else if (role == input && call.input_magnitude) statistic = *call.input_magnitude;
    else statistic = tensor_statistic(stream, x, how);
    DelayedStatistic& delayed = delayed_[role];
    if (delayed.used()) {
      const float current = value_of(stream, statistic);
      if (call.pass == Pass::training) delayed.see(current);
      statistic = delayed.get(current);
    }
  }
  if (call.observer && call.pass == Pass::training && q.quantizes()) measure(stream, call, role, x, how, statistic);
  Operand operand = made.input ? made.input->quantize(stream, made.keeps, {how, statistic, values, scale, written})
                               : quantize(stream, x, how, statistic, values, scale, written);
  if (!q.quantizes()) operand.factor = 1;
  return with_codes(operand);
}

Operand QuantizedLinear::forward_operand(Stream& stream, const LinearCall& call, Role role, const Tensor& x, DType type,
                                         LinearScratch& scratch, const QuantizedParts& parts) {
  if (x.dtype != DType::u8)
    return make_operand(stream, call, role, {.values = x}, Axis::cols, address(features_), {}, type, scratch, parts);
  Operand operand = unpacked(stream, quantizer(role), {.codes = x}, Axis::cols, type, spec_.out, scratch);
  operand.factor = call.weight_factor;
  return operand;
}

Quantization QuantizedLinear::of_weight() const {
  return {.quantizer = recipe_.forward.weight, .hadamard = address(features_)};
}
float QuantizedLinear::weight_magnitude(Stream& stream, const Tensor& rows) const {
  return value_of(stream, tensor_statistic(stream, {.values = rows}, of_weight()));
}
float QuantizedLinear::encode_weight(Stream& stream, const Tensor& rows, float magnitude, const Tensor& codes) const {
  return value_of(stream, quantize(stream, {.values = rows}, of_weight(), magnitude, {}, {}, {.codes = codes}).factor);
}

Scalar QuantizedLinear::step(Stream& stream, const LinearCall& call, Role role, const Tensor& x) const {
  if (call.pass == Pass::calibrating) keep(stream, initial_log_step(stream, quantizer(role), x), call.steps, role);
  return step_of(stream, number_in(call.steps, role));
}

void QuantizedLinear::note_step_gradient(Stream& stream, const LinearCall& call, Role role, const Tensor& x,
                                         const Tensor& gradient) const {
  if (!quantizer(role).learns()) return;
  keep(stream, log_step_gradient(stream, quantizer(role), number_in(call.steps, role), x, gradient),
       call.step_gradients, role);
}

void QuantizedLinear::measure(Stream& stream, const LinearCall& call, Role role, const Operand& x,
                              const Quantization& how, const Scalar& statistic) const {
  static constexpr std::array<std::array<const char*, 2>, roles> places = {
      {{"y", "x"}, {"y", "w"}, {"dx", "dy"}, {"dx", "w"}, {"dw", "dy"}, {"dw", "x"}}};
  const int64_t rows = x.values.rows, cols = x.values.cols;
  const OwnedTensor values(DType::f32, rows, cols, "observed operands", stream.place());
  OwnedTensor scale;
  if (how.quantizer.extent == Extent::row)
    scale = OwnedTensor(DType::f32, 1, how.axis == Axis::cols ? rows : cols, "observed operands", stream.place());
  QuantizationCounts counts;
  const Operand operand = quantize(stream, x, how, statistic, values, scale, {}, &counts);
  call.observer->observe({spec_.name, places[role][0], places[role][1]}, operand_error(stream, x, how, operand),
                         counts);
}

namespace {

float offset_of(const Quantizer& quantizer, DType type) { return type == DType::i8 ? quantizer.element->offset : 0.0f; }

/// A gradient in the layer's own basis.
void turn_back(Stream& stream, const LinearScratch& scratch, const Tensor& x, Axis axis, const Hadamard* hadamard,
               const Tensor& mask, const Tensor& y) {
  if (!scratch.counts()) unrotate(stream, x, axis, hadamard, {}, mask, y);
}

}  // namespace

QuantizedLinear::Wanted QuantizedLinear::wanted(Stream& stream, const LinearCall& call) const {
  const Quantizer& q = recipe_.forward.input;
  if (!stream.on_device()) return Wanted::matrix;  // no kernel there does both
  if (!q.quantizes()) return Wanted::matrix;       // the product multiplies it, or what it is rotated into
  if (q.learns() && call.pass == Pass::calibrating) return Wanted::matrix;  // the first step is found in it
  if (call.observer && call.pass == Pass::training) return Wanted::matrix;  // who compares it with its codes
  if (!q.needs_tensor_statistic()) return Wanted::operand;
  return features_ ? Wanted::matrix : Wanted::matrix_and_largest;  // the statistic is one of the rotated matrix
}

void QuantizedLinear::forward(Stream& stream, const LinearCall& call, const LinearInput& x, const Tensor& w,
                              const Tensor& y, const Tensor& residual, LinearSaved* saved, const Tensor& scratch) {
  const Wanted first = wanted(stream, call);
  LinearCall told = call;
  ToMake made;
  if (first == Wanted::matrix) x.make(stream);
  else if (first == Wanted::matrix_and_largest) told.input_magnitude = x.make_with_largest(stream);
  else made = {&x, saved && leaves_matrix(saved_input_, x.returns())};
  LinearScratch taken(scratch);
  forward(stream, told, x.matrix(), made, w, y, residual, saved, taken);
}

void QuantizedLinear::forward(Stream& stream, const LinearCall& call, const Tensor& x, const ToMake& made,
                              const Tensor& w, const Tensor& y, const Tensor& residual, const LinearSaved* saved,
                              LinearScratch& scratch) {
  const auto& [rotation, input_quantizer, weight_quantizer] = recipe_.forward;
  const DType type = forward_type(stream);
  const bool saves_other = saved && saved_input_ == SavedInput::other;
  const uintptr_t mark = scratch.mark();
  if (saves_other && !made.input) save_other(stream, call, x, *saved, scratch);
  const bool saves = saved && saved_input_ == SavedInput::multiplied;
  const QuantizedParts parts = saves   ? saved->parts
                               : saved ? QuantizedParts{.mask = saved->parts.mask}
                                       : QuantizedParts();
  const Operand a = make_operand(stream, call, input, {.values = x}, Axis::cols, address(features_), {}, type, scratch,
                                 parts, made),
                b = forward_operand(stream, call, weight, w, type, scratch);
  if (saves && !scratch.counts()) save_scales(stream, a, *saved);
  multiply(stream, scratch, {a, input, Transpose::no}, {b, weight, Transpose::yes}, y, residual,
           {.factor = product_of(stream, a.factor, b.factor),
            .rows = a.row_scale,
            .cols = b.row_scale,
            .a_offset = offset_of(input_quantizer, type),
            .b_offset = offset_of(weight_quantizer, type)});
  if (!saves_other || !made.input) return;
  scratch.back_to(mark);  // x is there now, and the operands have been multiplied
  save_other(stream, call, x, *saved, scratch);
}

const GradientRecipe& QuantizedLinear::gradient(Role error) const {
  return error == input_error ? recipe_.backward.input : recipe_.backward.weight;
}
const Quantizer& QuantizedLinear::carried(Role error) const {
  static constexpr Quantizer none{};
  if (gradient(error).source == Source::given) return none;
  return error == input_error ? recipe_.forward.weight : recipe_.forward.input;
}
Operand QuantizedLinear::carried_over(Stream& stream, const LinearCall& call, Role error, const Tensor& x,
                                      LinearScratch& scratch, const Tensor& mask) {
  const Role role = error == input_error ? weight : input;
  const auto multiplied = [&](DType type) {
    return forward_operand(stream, call, role, x, type, scratch, {.mask = mask});
  };
  if (gradient(error).source == Source::multiplied) return multiplied(carried_type(stream, error));
  if (mask) {
    const uintptr_t mark = scratch.mark();
    multiplied(product_type({}, quantizer(role)));
    scratch.back_to(mark);
  }
  if (!features_) return {.values = x};
  // In the basis of the forward product, not quantized.
  const Tensor values = scratch.take(product_type({}, {}), x.rows, x.cols);
  if (scratch.counts()) return {.values = values};
  return quantize(stream, {.values = x}, {.axis = Axis::cols, .hadamard = address(features_)}, 0, values);
}

Operand QuantizedLinear::gradient_other(Stream& stream, const LinearCall& call, Role error, const Operand& carried_over,
                                        LinearScratch& scratch, const QuantizedParts& parts) {
  const GradientRecipe& row = gradient(error);
  const bool by_input = error == input_error;
  const Hadamard* hadamard = address(by_input ? outputs_ : tokens_);
  if (!row.other.quantizes() && !hadamard) return carried_over;
  const std::vector<float> signs = signs_of(call, row.rotation, by_input ? spec_.out : spec_.tokens, error);
  return make_operand(stream, call, by_input ? input_other : weight_other, carried_over, Axis::rows, hadamard, signs,
                      gradient_type(stream, error), scratch, parts);
}

QuantizedLinear::Pair QuantizedLinear::gradient_operands(Stream& stream, const LinearCall& call, Role error,
                                                         const Operand& dy, const Operand& other,
                                                         LinearScratch& scratch) {
  const GradientRecipe& row = gradient(error);
  const bool by_input = error == input_error;
  const Axis axis = by_input ? Axis::cols : Axis::rows;
  const Hadamard* hadamard = address(by_input ? outputs_ : tokens_);
  const DType type = gradient_type(stream, error);
  Pair pair{.error = {}, .other = other};
  if (row.other.quantizes() || hadamard) {
    const std::vector<float> signs = signs_of(call, row.rotation, by_input ? spec_.out : spec_.tokens, error);
    pair.error = make_operand(stream, call, error, dy, axis, hadamard, signs, type, scratch);
    return pair;
  }
  // Scales that run along the reduction axis are folded into the error before its one rounding.
  Operand scaled = dy;
  (by_input ? scaled.col_scale : scaled.row_scale) = std::exchange(pair.other.row_scale, {});
  const bool turned = by_input && left_;
  pair.error = make_operand(stream, call, error, scaled, turned ? Axis::rows : axis, turned ? address(left_) : nullptr,
                            {}, type, scratch);
  return pair;
}

Scaling QuantizedLinear::gradient_scaling(Stream& stream, Role error, const Pair& pair) const {
  const GradientRecipe& row = gradient(error);
  const DType type = pair.error.values.dtype;
  return {.factor = product_of(stream, pair.error.factor, pair.other.factor),
          .rows = error == input_error ? pair.error.row_scale : pair.error.col_scale,
          .cols = pair.other.col_scale,
          .a_offset = offset_of(row.error, type),
          .b_offset = offset_of(row.other.quantizes() ? row.other : carried(error), type)};
}

void QuantizedLinear::backward(Stream& stream, const LinearCall& call, const Tensor& dy, const Tensor& w,
                               const LinearSaved& saved, const Tensor& dx, const Tensor& dw, LinearScratch& scratch) {
  LinearCall again = call;  // forward took the statistics of what it quantized
  again.pass = Pass::recomputing;
  const auto mask_of = [&](const Quantizer& q, int64_t rows) {
    return q.mask == MaskRule::all ? Tensor() : scratch.take(DType::u8, rows, spec_.in / 8);
  };
  const Tensor weight_mask = mask_of(recipe_.forward.weight, spec_.out),
               input_mask = keeps_input() ? mask_of(recipe_.forward.input, dy.rows) : saved.parts.mask;
  const Operand x_hat = keeps_input() ? carried_over(stream, again, weight_error, saved.input, scratch, input_mask)
                                      : restored(stream, saved, dy.rows, scratch),
                w_hat = carried_over(stream, again, input_error, w, scratch, weight_mask);
  // Codes of dw's operand were made of x_hat by the forward pass.
  const auto other_of_x_hat = [&] {
    if (saved_input_ == SavedInput::other) return x_hat;
    return gradient_other(stream, call, weight_error, x_hat, scratch);
  };
  const uintptr_t mark = scratch.mark();
  Pair pair = gradient_operands(stream, call, input_error, {.values = dy},
                                gradient_other(stream, call, input_error, w_hat, scratch), scratch);
  const bool changed = input_mask || features_ || left_;
  const Tensor product = changed ? scratch.take(DType::f32, dx.rows, dx.cols) : dx;
  const auto multiply_pair = [&](Role error, Transpose transpose_error, const Tensor& to) {
    multiply(stream, scratch, {pair.error, error, transpose_error},
             {pair.other, gradient_other_role(error), Transpose::no}, to, {}, gradient_scaling(stream, error, pair));
  };
  multiply_pair(input_error, Transpose::no, product);
  if (!scratch.counts()) note_step_gradient(stream, call, input, saved.input, product);
  if (left_) turn_back(stream, scratch, product, Axis::rows, address(left_), {}, product);
  if (changed) turn_back(stream, scratch, product, Axis::cols, address(features_), input_mask, dx);

  if (errors_are_alike(stream)) {
    pair.other = other_of_x_hat();
  } else {
    scratch.back_to(mark);
    pair = gradient_operands(stream, call, weight_error, {.values = dy}, other_of_x_hat(), scratch);
  }
  multiply_pair(weight_error, Transpose::yes, dw);
  if (!scratch.counts()) note_step_gradient(stream, call, weight, w, dw);
  if (weight_mask || features_) turn_back(stream, scratch, dw, Axis::cols, address(features_), weight_mask, dw);
}

bool QuantizedLinear::weight_residual(Stream& stream, const LinearCall& call, const Tensor& w, const Tensor& residual,
                                      LinearScratch& scratch) {
  const Quantizer& q = recipe_.forward.weight;
  if (!q.quantizes()) return false;
  const Tensor mask = q.mask == MaskRule::all ? Tensor() : scratch.take(DType::u8, w.rows, spec_.in / 8);
  const Operand multiplied = make_operand(stream, call, weight, {.values = w}, Axis::cols, address(features_), {},
                                          product_type({}, q), scratch, {.mask = mask});
  if (scratch.counts()) return true;
  quantize(stream, {.values = w}, {.axis = Axis::cols, .hadamard = address(features_)}, 0, residual);
  subtract(stream, multiplied, residual);
  unrotate(stream, residual, Axis::cols, address(features_), {}, mask, residual);
  return true;
}

}  // namespace nibble
