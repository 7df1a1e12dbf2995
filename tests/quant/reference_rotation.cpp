#include "tests/quant/reference_rotation.hpp"

#include <bit>
#include <cmath>
#include <cstdint>

namespace nibble::reference {
namespace {

int64_t order(std::span<const double> square) { return std::lround(std::sqrt(static_cast<double>(square.size()))); }

}  // namespace

std::vector<double> hadamard(int64_t n) {
  const int one[] = {1};
  return hadamard(one, n);
}

std::vector<double> hadamard(std::span<const int> order_m, int64_t n) {
  const int64_t m = std::lround(std::sqrt(static_cast<double>(order_m.size()))), power = n / m;
  std::vector<double> matrix(n * n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const int sign = std::popcount(static_cast<uint64_t>((i % power) & (j % power))) % 2 == 0 ? 1 : -1;
      matrix[i * n + j] = sign * order_m[(i / power) * m + j / power] / std::sqrt(static_cast<double>(n));
    }
  return matrix;
}

Matrix rotate(const Matrix& x, std::span<const double> orthonormal, std::span<const float> signs) {
  const int64_t n = order(orthonormal);
  Matrix y = x;
  for (size_t first = 0; first < x.values.size(); first += n)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i)
        sum += x.values[first + i] * (signs.empty() ? 1.0 : signs[i]) * orthonormal[i * n + j];
      y.values[first + j] = static_cast<float>(sum);
    }
  return y;
}

Matrix rotate_back(const Matrix& x, std::span<const double> orthonormal, std::span<const float> signs) {
  const int64_t n = order(orthonormal);
  Matrix y = x;
  for (size_t first = 0; first < x.values.size(); first += n)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += x.values[first + i] * orthonormal[j * n + i];
      y.values[first + j] = static_cast<float>(sum * (signs.empty() ? 1.0 : signs[j]));
    }
  return y;
}

}  // namespace nibble::reference
