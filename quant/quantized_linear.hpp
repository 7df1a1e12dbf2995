// The linear operator of any recipe that quantizes or rotates (recipe.hpp).
//
// It reads like the three products there: each operand is made by one quantize() call from the recipe's row,
// multiplied, and what a rotation or mask asks for is done to the result. Weights are quantized anew in the backward
// pass from the working copy (the same codes), unless they are given as codes; the input from its packed codes. Not
// for: what is saved of the input (saved_input.hpp), bf16 and fp32 without a recipe (linear.cpp).
#pragma once

#include <optional>

#include "quant/coded_operand.hpp"
#include "quant/delayed_statistic.hpp"
#include "quant/linear.hpp"
#include "quant/linear_scratch.hpp"
#include "quant/saved_input.hpp"
#include "tensor/gemm.hpp"

namespace nibble {

/// An operand's x that is made as it is quantized; by default it is there.
struct ToMake {
  const LinearInput* input = nullptr;
  bool keeps = false;  ///< the matrix is read later
};

class QuantizedLinear final : public Linear {
 public:
  /// Throws Error{configuration} where a block or rotation does not divide an axis of the layer.
  QuantizedLinear(const Recipe& recipe, const LinearSpec& spec);

  bool keeps_input() const override;
  void take_saved(Arena& arena, int64_t tokens, LinearSaved& saved) const override;
  size_t scratch_bytes(Stream& stream, int64_t tokens) const override;
  std::vector<DType> product_types(Stream& stream) const override;
  /// Of the operands of y: u8 where the stream's product multiplies codes (coded_operand.hpp).
  DType forward_type(Stream& stream) const;
  bool learns() const override { return recipe_.learns(); }
  void state(StateList& list) override;
  void statistics(std::vector<float*>& list) override;
  void forward(Stream& stream, const LinearCall& call, const Tensor& x, const Tensor& w, const Tensor& y,
               const Tensor& residual, LinearSaved* saved, const Tensor& scratch) override {
    LinearScratch taken(scratch);
    forward(stream, call, x, {}, w, y, residual, saved, taken);
  }
  void forward(Stream& stream, const LinearCall& call, const LinearInput& x, const Tensor& w, const Tensor& y,
               const Tensor& residual, LinearSaved* saved, const Tensor& scratch) override;
  void backward(Stream& stream, const LinearCall& call, const Tensor& dy, const Tensor& w, const LinearSaved& saved,
                const Tensor& dx, const Tensor& dw, const Tensor& scratch) override {
    LinearScratch taken(scratch);
    backward(stream, call, dy, w, saved, dx, dw, taken);
  }
  bool weight_residual(Stream& stream, const LinearCall& call, const Tensor& w, const Tensor& residual,
                       const Tensor& scratch) override {
    LinearScratch taken(scratch);
    return weight_residual(stream, call, w, residual, taken);
  }
  float weight_magnitude(Stream& stream, const Tensor& rows) const override;
  float encode_weight(Stream& stream, const Tensor& rows, float magnitude, const Tensor& codes) const override;
  void commit() override;
  void discard() override;

 private:
  /// The operands of the three products, in this order: what tensor ids of random numbers and histories go by.
  enum Role { input, weight, input_error, input_other, weight_error, weight_other, roles };

  /// What a forward call first wants of an input that is made for it.
  enum class Wanted { matrix, matrix_and_largest, operand };
  Wanted wanted(Stream& stream, const LinearCall& call) const;
  void forward(Stream& stream, const LinearCall& call, const Tensor& x, const ToMake& made, const Tensor& w,
               const Tensor& y, const Tensor& residual, const LinearSaved* saved, LinearScratch& scratch);
  void backward(Stream& stream, const LinearCall& call, const Tensor& dy, const Tensor& w, const LinearSaved& saved,
                const Tensor& dx, const Tensor& dw, LinearScratch& scratch);
  bool weight_residual(Stream& stream, const LinearCall& call, const Tensor& w, const Tensor& residual,
                       LinearScratch& scratch);

  /// Of values that bf16 or i8 hold exactly.
  DType product_type(const Quantizer& a, const Quantizer& b) const;
  const Quantizer& quantizer(Role role) const;
  const GradientRecipe& gradient(Role error) const;
  /// What the gradient multiplies the error with when it is not quantized anew.
  const Quantizer& carried(Role error) const;
  Role gradient_other_role(Role error) const;
  DType gradient_type(Stream& stream, Role error) const;
  DType carried_type(Stream& stream, Role error) const;
  bool multiplies_codes(Stream& stream, Role a, Role b, int64_t cols, int64_t depth) const;

  struct Side {
    const Operand& operand;
    Role role;
    Transpose transpose;
  };
  /// c = op(a) op(b), scaled, + addend.
  void multiply(Stream& stream, LinearScratch& scratch, const Side& a, const Side& b, const Tensor& c,
                const Tensor& addend, const Scaling& scaling) const;

  Operand make_operand(Stream& stream, const LinearCall& call, Role role, const Operand& x, Axis axis,
                       const Hadamard* hadamard, std::span<const float> signs, DType type, LinearScratch& scratch,
                       const QuantizedParts& parts = {}, const ToMake& made = {});
  /// What the forward product multiplies of x or w: made of these, or, of a w that is given as codes, read.
  Operand forward_operand(Stream& stream, const LinearCall& call, Role role, const Tensor& x, DType type,
                          LinearScratch& scratch, const QuantizedParts& parts = {});
  /// How weight_codes() are made: nothing random is in it.
  Quantization of_weight() const;
  /// The scale of a forward operand that learns it.
  Scalar step(Stream& stream, const LinearCall& call, Role role, const Tensor& x) const;
  /// Writes d loss / d ln step of a forward operand whose role learns; `gradient` (f32) is that of the quantized x.
  void note_step_gradient(Stream& stream, const LinearCall& call, Role role, const Tensor& x,
                          const Tensor& gradient) const;
  /// Tells the call's observer what quantization did to x, from a copy in memory of its own.
  void measure(Stream& stream, const LinearCall& call, Role role, const Operand& x, const Quantization& how,
               const Scalar& statistic) const;
  /// What the gradient of `error` is given of x (or w): what the forward product multiplied of it, or x itself in the
  /// same basis.
  Operand carried_over(Stream& stream, const LinearCall& call, Role error, const Tensor& x, LinearScratch& scratch,
                       const Tensor& mask);
  void save_other(Stream& stream, const LinearCall& call, const Tensor& x, const LinearSaved& saved,
                  LinearScratch& scratch);
  /// The values of packed codes of that quantizer, without their scales.
  Operand unpacked(Stream& stream, const Quantizer& quantizer, const QuantizedParts& parts, Axis axis, DType type,
                   int64_t rows, LinearScratch& scratch) const;
  Operand restored(Stream& stream, const LinearSaved& saved, int64_t tokens, LinearScratch& scratch);
  bool errors_are_alike(Stream& stream) const;
  /// What a gradient's product multiplies the error with.
  Operand gradient_other(Stream& stream, const LinearCall& call, Role error, const Operand& carried_over,
                         LinearScratch& scratch, const QuantizedParts& parts = {});
  /// Both operands of a gradient's product.
  struct Pair {
    Operand error, other;
  };
  Pair gradient_operands(Stream& stream, const LinearCall& call, Role error, const Operand& dy, const Operand& other,
                         LinearScratch& scratch);
  Scaling gradient_scaling(Stream& stream, Role error, const Pair& pair) const;
  std::vector<float> signs_of(const LinearCall& call, const Rotation& rotation, int64_t depth, uint32_t product) const;

  Recipe recipe_;
  LinearSpec spec_;
  SavedInput saved_input_;
  /// Of the input features (forward), of the reduction axes of the gradients, and of the tokens from the left.
  std::optional<Hadamard> features_, outputs_, tokens_, left_;
  std::vector<DelayedStatistic> delayed_;      ///< by role, as what follows
  std::vector<std::optional<CodedAs>> coded_;  ///< what products may multiply of codes
};

}  // namespace nibble
