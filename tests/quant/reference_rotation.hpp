// Hadamard rotations by definition: a dense matrix, multiplied out in double.
//
// x * D * H, the signs before the transform (reference, sections 0 and 9.3). Not for: speed.
#pragma once

#include <span>
#include <vector>

#include "tests/quant/reference_matrix.hpp"

namespace nibble::reference {

/// H[i][j] = (-1)^popcount(i & j) / sqrt(n), row-major [n, n]; n is a power of two.
std::vector<double> hadamard(int64_t n);

/// The Kronecker product of an order-m Hadamard matrix (entries +-1, row-major) with that of order n / m, orthonormal
/// [n, n]; n / m is a power of two. The order-m matrix acts on the slow part of the index.
std::vector<double> hadamard(std::span<const int> order_m, int64_t n);

/// Each stretch of n along the depth becomes stretch * D * H. H is orthonormal [n, n]; D has the n signs, or none.
Matrix rotate(const Matrix& x, std::span<const double> orthonormal, std::span<const float> signs = {});

/// The inverse: stretch * H^T * D.
Matrix rotate_back(const Matrix& x, std::span<const double> orthonormal, std::span<const float> signs = {});

}  // namespace nibble::reference
