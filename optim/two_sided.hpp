// What Shampoo and SOAP have in common: a matrix of gradients, its two factors, and products from both sides.
//
//   l = beta l + (1 - beta) g gᵀ;   r = beta r + (1 - beta) gᵀ g
// Gupta et al., "Shampoo: preconditioned stochastic tensor optimization", arXiv 1802.09568, with running means in place
// of sums, as in Shi et al., arXiv 2309.06497. The rank that owns a matrix has all of this.
// Not for: what is made of the factors (shampoo.hpp, soap.hpp).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "optim/tile_products.hpp"
#include "optim/whole_matrices.hpp"

namespace nibble {

/// Declares what the owner has of a matrix as state "PREFIX/PARAMETER", in the parameter's shape; `value` is empty on
/// other ranks.
void add_packed(StateList& list, const std::string& prefix, const ParameterInfo& matrix, const Tensor& value);

/// A square matrix for each side of a parameter [rows, cols], f32, packed; one that is empty stands for the identity.
struct TwoSides {
  Tensor left;   ///< [rows, rows]
  Tensor right;  ///< [cols, cols]
};

/// Of a matrix; sides longer than `longest` keep the identity.
TwoSides take_sides(Arena& arena, const ParameterInfo& matrix, int64_t longest);

/// Declares them as state "optimizer/left_KIND/PARAMETER" and "optimizer/right_KIND/PARAMETER", on the owner or not.
void add_sides(StateList& list, const std::string& kind, const ParameterInfo& matrix, const TwoSides& sides,
               int64_t longest);

/// What a thread's matrices work in, one after the other.
class TwoSidedScratch {
 public:
  /// As large as the largest of these matrices needs it. Declared as "matrix updates".
  TwoSidedScratch(std::span<const ParameterInfo* const> matrices, int64_t longest, Place place);

  /// As large as the matrix; `which` is 0 or 1.
  Tensor like(const Tensor& matrix, int which) const;
  /// As large as a factor.
  Tensor square(int64_t side) const;

 private:
  Tensor matrices_[2], square_;
  Arena memory_;
};

/// By thread, for the matrices that this rank owns.
std::vector<TwoSidedScratch> two_sided_scratch(std::span<const OptimizedParameter> matrices, const WholeMatrices& whole,
                                               int64_t longest, const ParameterShares& shares);

/// l and r take g in.
void update_factors(Stream& stream, const Tensor& gradient, const TwoSides& factors, double beta,
                    const TwoSidedScratch& scratch);

/// x becomes op(left) x op(right). Uses the scratch matrix 1.
void multiply_sides(Stream& stream, const TwoSides& sides, Transpose left, const Tensor& x, Transpose right,
                    const TwoSidedScratch& scratch);

/// Of a device's matrix, as it is when all that was queued is done: decompositions are the host's alone.
OwnedTensor brought_to_host(Stream& stream, const Tensor& matrix);

/// eigen_decomposition() of a factor, wherever it is.
std::vector<double> eigenvectors(Stream& stream, const Tensor& factor, const Tensor& vectors, const std::string& what);

/// Calls `products` with zeros, for a matrix of this shape, so that a device's algorithms are chosen.
void rehearse_sides(
    Stream& stream, const ParameterInfo& matrix, int64_t longest,
    const std::function<void(const Tensor& gradient, const TwoSides& sides, const TwoSidedScratch& scratch)>& products);

// Multiplications and additions.

/// Of so many products of a matrix with each side that has a factor; one that gives a square counts half.
double side_products(const ParameterInfo& matrix, int64_t longest, double products);
/// So many times n^3 of each such side.
double side_cubes(const ParameterInfo& matrix, int64_t longest, double cubes);

/// What products take beside the memory that the optimizers own (tensor/gemm.hpp).
size_t two_sided_scratch_bytes(const Stream& stream, std::span<const ParameterInfo> matrices);
/// What decompositions do, all of it the host's: on all of its threads, or with what a device's matrices are copied to.
size_t two_sided_decomposition_bytes(const Stream& stream, std::span<const ParameterInfo> matrices, int64_t longest);

}  // namespace nibble
