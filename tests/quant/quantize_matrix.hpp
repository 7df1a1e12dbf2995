// quantize() as the tests call it: a matrix of the reference in, everything that it writes out, unpacked.
//
// Not for: what should come out (reference_quantizers.hpp, quantizer_cases.hpp).
#pragma once

#include <optional>
#include <vector>

#include "quant/quantize.hpp"
#include "tests/quant/reference_quantizers.hpp"

namespace nibble {

/// How a matrix is quantized, besides by what.
struct QuantizeCall {
  Axis axis = Axis::cols;  ///< rows: the matrix lies in memory transposed
  DType from = DType::f32, type = DType::f32;
  const Hadamard* hadamard = nullptr;
  std::span<const float> signs{};
  uint64_t seed = 5;
  uint32_t step = 0, tensor = 3, part = 0;
  int threads = 2;
  Place place = Place::host;
  std::optional<float> statistic{};  ///< of the tensor; its own where none is given
};

/// Everything in [outer, depth], whichever way the matrix lies.
struct QuantizedMatrix {
  std::vector<float> values;  ///< as they were written: without factor and row scales
  std::vector<int> codes;     ///< as the reference has them: a sign bit for floating point, signed for integers
  std::vector<int> scale_codes;
  std::vector<uint8_t> mask;
  std::vector<float> row_scales;
  float factor = 1;
  QuantizationCounts counts;
  std::vector<float> restored;  ///< values from codes and scales, where these say all

  float value(size_t place, int64_t depth) const;
  bool operator==(const QuantizedMatrix& other) const;  ///< bit by bit
};

QuantizedMatrix quantize_matrix(const reference::Matrix& x, const Quantizer& quantizer, const QuantizeCall& call = {});

/// The numbers that such a call rounds with, as the reference takes them: up where one is below the distance.
struct Uniforms {
  std::vector<float> elements;  ///< [outer, depth]
  std::vector<float> of_four;   ///< the same, for four on the largest value where six is the first choice
  std::vector<float> scales;    ///< one for each 16 elements
};
Uniforms uniforms_of(const reference::Matrix& x, const QuantizeCall& call = {});

/// Normal values, each row under a deviation of its own between 1/4 and 4; `narrow`: all of them are values of bf16.
reference::Matrix normal_matrix(int64_t rows, int64_t depth, uint64_t seed = 1, bool narrow = false);

/// The value of a matrix in memory: f32, bf16 or i8.
float element_of(const Tensor& x, int64_t row, int64_t col);
/// A matrix as it lies in memory: for Axis::rows transposed.
OwnedTensor tensor_of(const reference::Matrix& x, DType type, Axis axis = Axis::cols);
reference::Matrix matrix_of(const Tensor& x, Axis axis = Axis::cols);

}  // namespace nibble
