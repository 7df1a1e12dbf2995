// Slow, obvious linear algebra in double, for the tests of matrix optimizers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "optim/newton_schulz.hpp"
#include "tensor/random.hpp"
#include "tensor/tensor.hpp"

namespace nibble::testing {

struct Matrix {
  int64_t rows, cols;
  std::vector<double> values;  ///< row-major

  Matrix(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<size_t>(r * c)) {}
  Matrix(int64_t r, int64_t c, std::vector<double> v) : rows(r), cols(c), values(std::move(v)) {}
  /// Of an f32 tensor.
  explicit Matrix(const Tensor& tensor) : Matrix(tensor.rows, tensor.cols) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j) at(i, j) = tensor.row<float>(i)[j];
  }
  static Matrix identity(int64_t n) {
    Matrix matrix(n, n);
    for (int64_t i = 0; i < n; ++i) matrix.at(i, i) = 1;
    return matrix;
  }
  static Matrix gaussian(int64_t rows, int64_t cols, uint32_t tensor) {
    const RandomStream random(11, Purpose::initialization, 0, tensor);
    Matrix matrix(rows, cols);
    for (size_t i = 0; i < matrix.values.size(); ++i) matrix.values[i] = random.normal_pair(i)[0];
    return matrix;
  }

  double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * cols + j)]; }
  double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * cols + j)]; }
  double norm() const { return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0)); }
  Matrix transposed() const {
    Matrix turned(cols, rows);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j) turned.at(j, i) = at(i, j);
    return turned;
  }
  OwnedTensor tensor() const {
    OwnedTensor tensor(DType::f32, rows, cols);
    std::transform(values.begin(), values.end(), tensor.view().as<float>(),
                   [](double value) { return static_cast<float>(value); });
    return tensor;
  }
};

inline Matrix operator*(const Matrix& a, const Matrix& b) {
  Matrix product(a.rows, b.cols);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t k = 0; k < a.cols; ++k)
      for (int64_t j = 0; j < b.cols; ++j) product.at(i, j) += a.at(i, k) * b.at(k, j);
  return product;
}
inline Matrix operator*(double factor, Matrix a) {
  for (double& value : a.values) value *= factor;
  return a;
}
inline Matrix operator+(Matrix a, const Matrix& b) {
  for (size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
  return a;
}
inline Matrix operator-(const Matrix& a, const Matrix& b) { return a + -1.0 * b; }

/// Descending. One-sided Jacobi (Hestenes, 1958): rotations make the rows orthogonal, their lengths are the values.
inline std::vector<double> singular_values(Matrix a) {
  if (a.rows > a.cols) a = a.transposed();
  for (bool rotated = true; rotated;) {
    rotated = false;
    for (int64_t p = 0; p < a.rows; ++p)
      for (int64_t q = p + 1; q < a.rows; ++q) {
        double pp = 0, qq = 0, pq = 0;
        for (int64_t j = 0; j < a.cols; ++j) {
          pp += a.at(p, j) * a.at(p, j);
          qq += a.at(q, j) * a.at(q, j);
          pq += a.at(p, j) * a.at(q, j);
        }
        if (std::abs(pq) <= 1e-13 * std::sqrt(pp * qq)) continue;
        rotated = true;
        const double zeta = (qq - pp) / (2 * pq);
        const double t = (zeta >= 0 ? 1 : -1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (int64_t j = 0; j < a.cols; ++j) {
          const double x = a.at(p, j), y = a.at(q, j);
          a.at(p, j) = c * x - s * y;
          a.at(q, j) = s * x + c * y;
        }
      }
  }
  std::vector<double> values;
  for (int64_t i = 0; i < a.rows; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < a.cols; ++j) squares += a.at(i, j) * a.at(i, j);
    values.push_back(std::sqrt(squares));
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

/// Rows that are orthogonal and of length 1 (Gram and Schmidt, twice).
inline Matrix orthonormal_rows(int64_t rows, int64_t cols, uint32_t tensor) {
  Matrix q = Matrix::gaussian(rows, cols, tensor);
  const auto dot = [&](int64_t i, int64_t k) {
    double sum = 0;
    for (int64_t j = 0; j < cols; ++j) sum += q.at(i, j) * q.at(k, j);
    return sum;
  };
  for (int64_t i = 0; i < rows; ++i) {
    for (int repeat = 0; repeat < 2; ++repeat)
      for (int64_t k = 0; k < i; ++k) {
        const double along = dot(i, k);
        for (int64_t j = 0; j < cols; ++j) q.at(i, j) -= along * q.at(k, j);
      }
    const double length = std::sqrt(dot(i, i));
    for (int64_t j = 0; j < cols; ++j) q.at(i, j) /= length;
  }
  return q;
}

/// A matrix of as many singular values as it can have.
inline Matrix with_singular_values(int64_t rows, int64_t cols, const std::vector<double>& values) {
  const auto rank = static_cast<int64_t>(values.size());
  Matrix scaled = orthonormal_rows(rank, cols, 21);
  for (int64_t i = 0; i < rank; ++i)
    for (int64_t j = 0; j < cols; ++j) scaled.at(i, j) *= values[static_cast<size_t>(i)];
  return orthonormal_rows(rank, rows, 22).transposed() * scaled;
}

/// The same iteration, in double.
inline Matrix newton_schulz(const Matrix& matrix, NewtonSchulzTable table, int64_t steps) {
  if (matrix.rows > matrix.cols) return newton_schulz(matrix.transposed(), table, steps).transposed();
  Matrix x = (1 / newton_schulz_divisor(table)(matrix.norm())) * matrix;
  for (const auto& [a, b, c] : newton_schulz_polynomials(table, steps)) {
    const Matrix square = x * x.transposed();
    x = a * x + (b * square + c * (square * square)) * x;
  }
  return x;
}

}  // namespace nibble::testing
