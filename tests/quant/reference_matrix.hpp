// A matrix, its blocks, and what a reference quantizer makes of it.
//
// Not for: the quantizers themselves (reference_quantizers.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/quant/reference_elements.hpp"

namespace nibble::reference {

/// Row-major; the depth is the axis of the reduction.
struct Matrix {
  int64_t rows = 0, depth = 0;
  std::vector<float> values;

  Matrix transposed() const;
};

/// The sides of a block, which divide the matrix; 0 is the whole side.
struct Extent {
  int64_t rows, depth;
};
inline constexpr Extent whole_tensor{0, 0}, whole_row{1, 0}, square_16{16, 16};

/// The places of a block's elements within the matrix, row by row.
using Block = std::vector<std::size_t>;
/// All blocks, row-major.
std::vector<Block> blocks(const Matrix& x, Extent extent);
float largest_magnitude(const Matrix& x, const Block& block);
float largest_magnitude(const Matrix& x);

struct ReferenceQuantized {
  std::vector<float> values;       ///< value(code) * scale * tensor_scale, where the quantizer does not say otherwise
  std::vector<int> codes;          ///< with the sign bit for floating point, signed for integers
  std::vector<float> scales;       ///< one for each block, in the order of blocks()
  float tensor_scale = 1;          ///< of the whole tensor: a second-level scale, or what undoes the 3/4
  std::vector<uint8_t> mask;       ///< 1 where the gradient passes
  std::vector<uint8_t> choices{};  ///< which grid each block took, where there are several

  /// Nothing but zeros, and a mask of ones.
  explicit ReferenceQuantized(const Matrix& x);
  void set(std::size_t place, int code, float value) { codes[place] = code, values[place] = value; }
};

/// Sum of (x - value)^2.
double squared_error(const Matrix& x, const std::vector<float>& values);

}  // namespace nibble::reference
