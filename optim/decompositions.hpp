// Eigenvectors of symmetric matrices and orthonormal bases of rows, by Eigen on the calling thread.
//
// What Eigen sums depends on the instruction set that the build names and on sizes of caches that are fixed here, so
// that neither threads nor ranks nor another processor changes a bit of a build.
// Not for: products (optim/tile_products.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tensor/tensor.hpp"

namespace nibble {

/// The eigenvalues of `symmetric`, descending; row k of `vectors` becomes the unit eigenvector of value k. Both f32
/// [n, n], packed; computed in double, since small eigenvalues count as much as large ones where roots are taken.
/// Throws Error{numerics} that names `what` for elements that are not finite and where the iteration finds no end.
std::vector<double> eigen_decomposition(const Tensor& symmetric, const Tensor& vectors, const std::string& what);

/// The rows of `rows` become orthonormal, each in the span of those up to it (Householder's QR of the transpose, so a
/// row may change its sign); where rows depend on each other or are zero, others complete the basis. Both f32 [n, n],
/// packed; `scratch` is overwritten. Throws Error{numerics} that names `what` if an element is not finite.
void orthonormalize_rows(const Tensor& rows, const Tensor& scratch, const std::string& what);

/// What either takes beside its operands, for sides of at most `longest`.
size_t decomposition_scratch_bytes(int64_t longest);

}  // namespace nibble
