// The linear operator: y = x W^T and its two gradients, as a recipe defines them.
//
// The model knows this interface and no number format. An operator says what it saves between forward and backward,
// and which state a resumed run needs.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quant/linear_input.hpp"
#include "quant/operand_observer.hpp"
#include "quant/precision.hpp"
#include "quant/quantize.hpp"
#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// Which linear layer of a model an operator is for: what random streams and state names go by.
struct LinearSpec {
  std::string name;  ///< of the physical buffer: "layers.3.gate_up"
  int64_t in = 0, out = 0;
  int64_t tokens = 0;  ///< of every call that a backward call follows; 0: none does
  uint32_t id = 0;     ///< of its random numbers
  uint64_t seed = 0;
  bool input_stays = false;  ///< the caller has the input in backward anyway, so that no copy of it is worth keeping
};

enum class Pass {
  training,     ///< statistics are taken, what backward needs is kept
  recomputing,  ///< the same micro-batch again: the same numbers, statistics are not taken a second time
  evaluation,   ///< nothing is taken or kept
  calibrating,  ///< as evaluation; but each step to learn is first set to what suits the operand (initial_log_step)
};

/// After any step of a run: a model that is only evaluated follows the recipes with which its run ends.
inline constexpr int64_t last_step = std::numeric_limits<int64_t>::max();

/// Where in a run a call stands: the counter of its random numbers.
struct LinearCall {
  int64_t step = 0;
  int64_t micro_batch = 0;  ///< global index within the step
  Pass pass = Pass::evaluation;
  OperandObserver* observer = nullptr;  ///< told once of each operand that a training pass quantizes; null: nobody
  /// Of an operator that learns(): f32 [1, 2], ln of the steps of x and w, and d loss / d them, which backward writes.
  Tensor steps{}, step_gradients{};
  float weight_factor = 1;                  ///< what codes of w are multiplied with, where w is given as codes
  std::optional<float> weight_magnitude{};  ///< the largest of all rows, where weight_residual is given some of w's
  std::optional<Scalar> input_magnitude{};  ///< the largest of x, where forward is told it and need not look
};

/// What one forward call leaves for its backward call.
struct LinearSaved {
  Tensor input;                        ///< x as given to forward; valid in backward only if keeps_input()
  QuantizedParts parts;                ///< of x as y multiplied it, or as dw does (saved_input.hpp)
  Tensor row_scale;                    ///< f32 [1, outer] and
  Tensor factor;                       ///< f32 [1, 1]: what its values are multiplied with (Operand)
  std::vector<LinearSaved> of_phases;  ///< of an operator whose recipe changes
};

class Linear {
 public:
  virtual ~Linear() = default;

  /// Whether backward reads the input of forward; the caller then provides it in LinearSaved::input.
  virtual bool keeps_input() const = 0;
  /// Takes the memory of what forward leaves for backward of `tokens` tokens.
  virtual void take_saved(Arena&, int64_t /*tokens*/, LinearSaved&) const {}
  /// Working memory of a call on so many tokens, in bytes: what `scratch` of the calls below must have.
  virtual size_t scratch_bytes(Stream&, int64_t /*tokens*/) const { return 0; }
  /// Of the operands that its products multiply on a stream, where these are others than its input (u8: codes); such
  /// products are scaled.
  virtual std::vector<DType> product_types(Stream&) const { return {}; }
  /// Whether LinearCall::steps are parameters of this operator.
  virtual bool learns() const { return false; }
  /// What a resumed run needs.
  virtual void state(StateList&) {}
  /// What the step's calls have seen, one number each, 0 at least: of several ranks the largest must stand there before
  /// commit.
  virtual void statistics(std::vector<float*>&) {}

  /// y[tokens, out] = x[tokens, in] w[out, in]^T + residual[tokens, out].
  /// x and w have the recipe's operand type. With a residual (f32), y is f32; without, of the operand type.
  /// Where the recipe has weight_codes(), w may be u8 [out, in * bits / 8] instead, as encode_weight makes it; backward
  /// takes it, too.
  /// `saved` is null in evaluation. `scratch` is u8 [1, scratch_bytes], aligned as arenas are.
  virtual void forward(Stream& stream, const LinearCall& call, const Tensor& x, const Tensor& w, const Tensor& y,
                       const Tensor& residual, LinearSaved* saved, const Tensor& scratch) = 0;
  /// The same of an x that is made now. The matrix is there afterwards if backward reads it (keeps_input(), where
  /// `saved` is given) and x does not return.
  virtual void forward(Stream& stream, const LinearCall& call, const LinearInput& x, const Tensor& w, const Tensor& y,
                       const Tensor& residual, LinearSaved* saved, const Tensor& scratch);

  /// dx[tokens, in] = dy[tokens, out] w (operand type) and dw[out, in] (f32) = dy^T x.
  virtual void backward(Stream& stream, const LinearCall& call, const Tensor& dy, const Tensor& w,
                        const LinearSaved& saved, const Tensor& dx, const Tensor& dw, const Tensor& scratch) = 0;

  /// residual[out, in] (f32) = w less what the forward product multiplies in its place, in w's own basis, and 0 where a
  /// mask excludes the element. False, and nothing written, where weights are not quantized. Both may be the same rows
  /// of w alone, where the recipe has weight_codes().
  virtual bool weight_residual(Stream&, const LinearCall&, const Tensor& /*w*/, const Tensor& /*residual*/,
                               const Tensor& /*scratch*/) {
    return false;
  }

  /// Of rows of w, where the recipe has weight_codes(): the largest magnitude in the basis in which w is quantized, NaN
  /// where an element is.
  virtual float weight_magnitude(Stream&, const Tensor& /*rows*/) const;
  /// codes[rows, in * bits / 8] (u8) of these rows, where `magnitude` is the largest of all rows of w. Returns what
  /// codes are multiplied with, for no rows, too.
  virtual float encode_weight(Stream&, const Tensor& /*rows*/, float /*magnitude*/, const Tensor& /*codes*/) const;

  /// The step counts: statistics that its calls took (a delayed amax) become state.
  virtual void commit() {}
  /// The step was refused: they are forgotten.
  virtual void discard() {}
};

/// Throws Error{configuration} where a block or rotation does not divide an axis, saying which widths would do.
std::unique_ptr<Linear> make_linear(const Recipe& recipe, const LinearSpec& spec);
/// One whose recipe changes with the step of a call.
std::unique_ptr<Linear> make_linear(const std::vector<Precision::Phase>& phases, const LinearSpec& spec);

}  // namespace nibble
