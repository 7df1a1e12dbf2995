#include "tests/quant/reference_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nibble::reference {

Matrix Matrix::transposed() const {
  Matrix result{depth, rows, std::vector<float>(values.size())};
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < depth; ++k) result.values[k * rows + row] = values[row * depth + k];
  return result;
}

std::vector<Block> blocks(const Matrix& x, Extent extent) {
  const int64_t height = extent.rows != 0 ? extent.rows : x.rows, width = extent.depth != 0 ? extent.depth : x.depth;
  std::vector<Block> all;
  for (int64_t top = 0; top < x.rows; top += height)
    for (int64_t left = 0; left < x.depth; left += width) {
      Block& block = all.emplace_back();
      for (int64_t row = top; row < top + height; ++row)
        for (int64_t k = left; k < left + width; ++k) block.push_back(row * x.depth + k);
    }
  return all;
}

float largest_magnitude(const Matrix& x, const Block& block) {
  float largest = 0;
  for (const size_t i : block) largest = std::max(largest, std::abs(x.values[i]));
  return largest;
}

float largest_magnitude(const Matrix& x) {
  Block everything(x.values.size());
  std::iota(everything.begin(), everything.end(), 0);
  return largest_magnitude(x, everything);
}

ReferenceQuantized::ReferenceQuantized(const Matrix& x)
    : values(x.values.size()), codes(x.values.size()), mask(x.values.size(), 1) {}

double squared_error(const Matrix& x, const std::vector<float>& values) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += std::pow(double{x.values[i]} - values[i], 2);
  return sum;
}

}  // namespace nibble::reference
