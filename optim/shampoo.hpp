// Shampoo: gradients between inverse roots of their second moments, one for each side of a matrix.
//
// Gupta et al., "Shampoo: preconditioned stochastic tensor optimization", arXiv 1802.09568, in the form of Shi et al.,
// "A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer", arXiv 2309.06497. With the
// factors l and r of two_sided.hpp:
//   m = b1 m + (1 - b1) g;   pl = (l / (1 - b2^t) + eps)^-e;   pr = (r / (1 - b2^t) + eps)^-e
//   d = pl m pr;   d *= |a| / |d|   (grafting: a is Adam's direction, or m / (1 - b1^t))
//   w *= 1 - lr wd;   w -= lr d
// The roots are taken anew in steps that `every` divides, from eigenvalues that are shifted up where rounding made the
// smallest one negative. Steps before the first roots are a, since those of few gradients would amplify what they have
// not seen. Without grafting d is divided by 1 - b1^t, and roots are taken in each of these steps.
#pragma once

#include <vector>

#include "optim/kernels.hpp"
#include "optim/two_sided.hpp"

namespace nibble {

/// Whose length a step has.
enum class Grafting { adam, sgd, none };

struct ShampooSettings {
  double beta1 = 0.95;
  double beta2 = 0.95;          ///< memory of l and r, and of Adam's second moment
  double graft_epsilon = 1e-8;  ///< Adam's
  double epsilon = 1e-12;
  double exponent = 0.25;
  int64_t every = 10;
  int64_t max_side = 8192;  ///< nothing multiplies a longer side
  Grafting grafting = Grafting::adam;
  double weight_decay = 0.1;  ///< for parameters with `decay`
};

/// By what matrices are shared among the ranks (matrix_shares): multiplications and additions of a step.
double shampoo_work(const ShampooSettings& settings, const ParameterInfo& matrix);

/// Multiplies once what steps multiply for a matrix of this shape.
void rehearse_shampoo(Stream& stream, const ShampooSettings& settings, const ParameterInfo& matrix);

class Shampoo final : public Optimizer {
 public:
  /// Allocates the moments, zero. What `shares` points to must outlive the object. Throws Error{configuration} for a
  /// beta outside [0, 1), an epsilon or an exponent <= 0, a negative decay, no steps between roots, no side.
  Shampoo(std::vector<OptimizedParameter> matrices, const ShampooSettings& settings,
          const ParameterShares& shares = {});

  /// All ranks call it. Throws Error{numerics} for factors or a direction whose elements are not finite.
  void step(Stream& stream, const StepContext& context) override;
  /// "optimizer/KIND/NAME" on the rank that owns the matrix, f32: first_moment and, with Adam's grafting, second_moment
  /// [rows, cols], left_factor and left_root [rows, rows], right_factor and right_root [cols, cols].
  void state(StateList& list) override;

 private:
  struct State {
    Tensor first_moment, second_moment;  ///< [rows, cols], packed
    TwoSides factors, roots;
  };

  /// Moments take the gradient in. Returns a copy of the first one, in the scratch.
  Tensor take_in(Stream& stream, size_t matrix, const Tensor& gradient, const TwoSidedScratch& scratch);
  void take_roots(Stream& stream, int64_t step, size_t matrix, const TwoSidedScratch& scratch);
  /// Replaces the gradient by what is grafted: Adam's direction, or the corrected first moment.
  void graft(Stream& stream, int64_t step, size_t matrix, const Tensor& gradient);
  /// Makes `moment` the direction, puts it in the place of what is grafted and gives it that length.
  void precondition(Stream& stream, int64_t step, size_t matrix, const Tensor& moment, const Tensor& grafted,
                    const TwoSidedScratch& scratch);

  std::vector<OptimizedParameter> parameters_;
  ShampooSettings settings_;
  std::vector<State> states_;  ///< by parameter; empty on ranks that do not own it
  WholeMatrices whole_;
  std::vector<TwoSidedScratch> scratch_;  ///< by thread
  Arena memory_;
};

}  // namespace nibble
