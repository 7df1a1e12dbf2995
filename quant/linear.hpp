// The linear operator: y = x W^T and its two gradients, as a recipe defines them.
//
// The model knows this interface and no number format. An operator says what it saves between forward and backward,
// and which state a resumed run needs.
#pragma once

#include <memory>
#include <vector>

#include "quant/recipe.hpp"
#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// Where in a run a call stands: the counter of its random numbers.
struct LinearCall {
  int64_t step = 0;
  int64_t micro_batch = 0;   ///< global index within the step
  bool recomputing = false;  ///< a second forward pass over the same micro-batch: statistics are not taken again
};

/// What one forward call leaves for its backward call.
struct LinearSaved {
  Tensor input;                 ///< x as given to forward; valid in backward only if keeps_input()
  std::vector<Tensor> tensors;  ///< codes, scales, masks: laid out by take_saved
};

class Linear {
 public:
  virtual ~Linear() = default;

  /// Whether backward reads the input of forward; the caller then provides it in LinearSaved::input.
  virtual bool keeps_input() const = 0;
  /// Takes the memory of what forward leaves for backward of `tokens` tokens.
  virtual void take_saved(Arena&, int64_t /*tokens*/, LinearSaved&) const {}
  /// What a resumed run needs.
  virtual void state(StateList&) {}

  /// y[tokens, out] = x[tokens, in] w[out, in]^T + residual[tokens, out].
  /// x and w have the recipe's operand type. With a residual (f32), y is f32; without, of the operand type.
  virtual void forward(Stream& stream, const LinearCall& call, const Tensor& x, const Tensor& w, const Tensor& y,
                       const Tensor& residual, LinearSaved& saved) = 0;

  /// dx[tokens, in] = dy[tokens, out] w (operand type) and dw[out, in] (f32) = or += dy^T x.
  virtual void backward(Stream& stream, const LinearCall& call, const Tensor& dy, const Tensor& w,
                        const LinearSaved& saved, const Tensor& dx, const Tensor& dw, bool accumulate) = 0;
};

std::unique_ptr<Linear> make_linear(const Recipe& recipe);

}  // namespace nibble
