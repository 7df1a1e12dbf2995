// SOAP: Adam in the basis of the eigenvectors of Shampoo's factors.
//
// Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", arXiv 2409.11321, Algorithm 3. With the rows of ql
// and qr for a basis of each side, t counted from the second step, and the factors l and r of two_sided.hpp:
//   m = b1 m + (1 - b1) g;   m' = ql m qrᵀ;   g' = ql g qrᵀ;   v = b2 v + (1 - b2) g'^2
//   n' = m' / (1 - b1^t) / (sqrt(v) / sqrt(1 - b2^t) + eps)
//   w *= 1 - lr wd;   w -= lr qlᵀ n' qr;   then l and r take g in
// As in the authors' code, the first step changes no weight: l and r begin with it, and their eigenvectors are the
// first basis, so that no gradient is divided in a basis that was made of it. Every `every`th step after that renews
// the basis by one power iteration and QR; before it, vectors and v are sorted by what the factor makes of them.
// Epsilon and decay stand where adamw.hpp has them, and not where that code has them. m stays in the basis of the
// weights.
#pragma once

#include <vector>

#include "optim/kernels.hpp"
#include "optim/two_sided.hpp"

namespace nibble {

struct SoapSettings {
  double beta1 = 0.95;
  double beta2 = 0.95;
  double factor_beta = 0.95;  ///< memory of l and r
  double epsilon = 1e-8;
  int64_t every = 10;
  int64_t max_side = 10000;   ///< a longer side keeps the basis of the weights
  double weight_decay = 0.1;  ///< for parameters with `decay`
};

/// By what matrices are shared among the ranks (matrix_shares): multiplications and additions of a step.
double soap_work(const SoapSettings& settings, const ParameterInfo& matrix);

/// Multiplies once what steps multiply for a matrix of this shape.
void rehearse_soap(Stream& stream, const SoapSettings& settings, const ParameterInfo& matrix);

class Soap final : public Optimizer {
 public:
  /// Allocates the moments, zero. What `shares` points to must outlive the object. Throws Error{configuration} for a
  /// beta outside [0, 1), an epsilon <= 0, a negative decay, no steps between bases, no side.
  Soap(std::vector<OptimizedParameter> matrices, const SoapSettings& settings, const ParameterShares& shares = {});

  /// All ranks call it. Throws Error{numerics} for factors whose elements are not finite.
  void step(Stream& stream, const StepContext& context) override;
  /// "optimizer/KIND/NAME" on the rank that owns the matrix, f32: first_moment and rotated_second_moment [rows, cols],
  /// left_factor and left_basis [rows, rows], right_factor and right_basis [cols, cols].
  void state(StateList& list) override;

 private:
  struct State {
    Tensor first_moment, second_moment;  ///< [rows, cols], packed; the second one in the basis
    TwoSides factors, basis;
  };

  void begin_basis(Stream& stream, size_t matrix, const Tensor& gradient, const TwoSidedScratch& scratch);
  /// Replaces the gradient by the direction.
  void rotate_and_divide(Stream& stream, const StepContext& context, size_t matrix, const Tensor& gradient,
                         const TwoSidedScratch& scratch);
  void renew_basis(Stream& stream, size_t matrix, const TwoSidedScratch& scratch);

  std::vector<OptimizedParameter> parameters_;
  SoapSettings settings_;
  std::vector<State> states_;  ///< by parameter; empty on ranks that do not own it
  WholeMatrices whole_;
  std::vector<TwoSidedScratch> scratch_;  ///< by thread
  Arena memory_;
};

}  // namespace nibble
