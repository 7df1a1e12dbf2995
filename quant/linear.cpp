#include "quant/linear.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "quant/quantized_linear.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"

namespace nibble {
namespace {

/// Operands as they are, products accumulated in fp32.
class DenseLinear final : public Linear {
 public:
  using Linear::forward;

  bool keeps_input() const override { return true; }

  void forward(Stream& stream, const LinearCall&, const Tensor& x, const Tensor& w, const Tensor& y,
               const Tensor& residual, LinearSaved*, const Tensor&) override {
    gemm(stream, x, Transpose::no, w, Transpose::yes, y, residual);
  }

  void backward(Stream& stream, const LinearCall&, const Tensor& dy, const Tensor& w, const LinearSaved& saved,
                const Tensor& dx, const Tensor& dw, const Tensor&) override {
    gemm(stream, dy, Transpose::no, w, Transpose::no, dx);
    gemm(stream, dy, Transpose::yes, saved.input, Transpose::no, dw);
  }
};

/// An operator for each phase; a call goes to the one of its step.
class PhasedLinear final : public Linear {
 public:
  PhasedLinear(const std::vector<Precision::Phase>& phases, const LinearSpec& spec) {
    make(phases, spec);
    if (!keeps_input()) return;
    LinearSpec staying = spec;  // for one of them, so that codes for another would only take memory
    staying.input_stays = true;
    make(phases, staying);
  }

  bool keeps_input() const override {
    return std::ranges::any_of(phases_, [](const Phase& phase) { return phase.linear->keeps_input(); });
  }
  /// Memory for each phase: no more than one of them is in use, but a run's memory does not change on its way.
  void take_saved(Arena& arena, int64_t tokens, LinearSaved& saved) const override {
    saved.of_phases.resize(phases_.size());
    for (size_t i = 0; i < phases_.size(); ++i) phases_[i].linear->take_saved(arena, tokens, saved.of_phases[i]);
  }
  size_t scratch_bytes(Stream& stream, int64_t tokens) const override {
    size_t bytes = 0;
    for (const Phase& phase : phases_) bytes = std::max(bytes, phase.linear->scratch_bytes(stream, tokens));
    return bytes;
  }
  std::vector<DType> product_types(Stream& stream) const override {
    std::vector<DType> types;
    for (const Phase& phase : phases_)
      for (const DType type : phase.linear->product_types(stream)) types.push_back(type);
    return types;
  }
  bool learns() const override {
    return std::ranges::any_of(phases_, [](const Phase& phase) { return phase.linear->learns(); });
  }
  void state(StateList& list) override {
    for (const Phase& phase : phases_) phase.linear->state(list);
  }
  void statistics(std::vector<float*>& list) override {
    for (const Phase& phase : phases_) phase.linear->statistics(list);
  }
  void forward(Stream& stream, const LinearCall& call, const Tensor& x, const Tensor& w, const Tensor& y,
               const Tensor& residual, LinearSaved* saved, const Tensor& scratch) override {
    forward_of_phase(stream, call, x, w, y, residual, saved, scratch);
  }
  void forward(Stream& stream, const LinearCall& call, const LinearInput& x, const Tensor& w, const Tensor& y,
               const Tensor& residual, LinearSaved* saved, const Tensor& scratch) override {
    forward_of_phase(stream, call, x, w, y, residual, saved, scratch);
  }
  void backward(Stream& stream, const LinearCall& call, const Tensor& dy, const Tensor& w, const LinearSaved& saved,
                const Tensor& dx, const Tensor& dw, const Tensor& scratch) override {
    const size_t phase = index(call);
    LinearSaved of_phase = saved.of_phases[phase];
    of_phase.input = saved.input;
    phases_[phase].linear->backward(stream, call, dy, w, of_phase, dx, dw, scratch);
  }
  bool weight_residual(Stream& stream, const LinearCall& call, const Tensor& w, const Tensor& residual,
                       const Tensor& scratch) override {
    return phases_[index(call)].linear->weight_residual(stream, call, w, residual, scratch);
  }
  float weight_magnitude(Stream& stream, const Tensor& rows) const override {
    return phases_.front().linear->weight_magnitude(stream, rows);
  }
  float encode_weight(Stream& stream, const Tensor& rows, float magnitude, const Tensor& codes) const override {
    return phases_.front().linear->encode_weight(stream, rows, magnitude, codes);
  }
  void commit() override {
    for (const Phase& phase : phases_) phase.linear->commit();
  }
  void discard() override {
    for (const Phase& phase : phases_) phase.linear->discard();
  }

 private:
  struct Phase {
    int64_t first_step;
    std::unique_ptr<Linear> linear;
  };
  void make(const std::vector<Precision::Phase>& phases, const LinearSpec& spec) {
    phases_.clear();
    for (const auto& [first_step, recipe] : phases) {
      LinearSpec of_phase = spec;  // numbered: a longer run, whose shares begin later, goes on with the same state
      of_phase.name = fmt::format("{}/phase_{}", spec.name, phases_.size());
      phases_.push_back({first_step, make_linear(recipe, of_phase)});
    }
  }
  template <class Input>
  void forward_of_phase(Stream& stream, const LinearCall& call, const Input& x, const Tensor& w, const Tensor& y,
                        const Tensor& residual, LinearSaved* saved, const Tensor& scratch) const {
    const size_t phase = index(call);
    phases_[phase].linear->forward(stream, call, x, w, y, residual, saved ? &saved->of_phases[phase] : nullptr,
                                   scratch);
  }
  size_t index(const LinearCall& call) const {
    size_t found = 0;
    if (call.pass == Pass::calibrating) {  // whichever phase learns, its steps begin now
      while (found + 1 < phases_.size() && !phases_[found].linear->learns()) ++found;
      return found;
    }
    while (found + 1 < phases_.size() && phases_[found + 1].first_step <= call.step) ++found;
    return found;
  }

  std::vector<Phase> phases_;
};

}  // namespace

void Linear::forward(Stream& stream, const LinearCall& call, const LinearInput& x, const Tensor& w, const Tensor& y,
                     const Tensor& residual, LinearSaved* saved, const Tensor& scratch) {
  x.make(stream);
  forward(stream, call, x.matrix(), w, y, residual, saved, scratch);
}

[[noreturn]] static void refuse_codes() {
  throw Error(
      {.kind = ErrorKind::internal, .what = "a linear operator was asked for codes that its recipe does not have"});
}
float Linear::weight_magnitude(Stream&, const Tensor&) const { refuse_codes(); }
float Linear::encode_weight(Stream&, const Tensor&, float, const Tensor&) const { refuse_codes(); }

std::unique_ptr<Linear> make_linear(const std::vector<Precision::Phase>& phases, const LinearSpec& spec) {
  if (phases.size() == 1) return make_linear(phases.front().recipe, spec);
  return std::make_unique<PhasedLinear>(phases, spec);
}

std::unique_ptr<Linear> make_linear(const Recipe& recipe, const LinearSpec& spec) {
  if (recipe.quantizes()) return std::make_unique<QuantizedLinear>(recipe, spec);
  return std::make_unique<DenseLinear>();
}

}  // namespace nibble
