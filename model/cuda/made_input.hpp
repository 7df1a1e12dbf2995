// What norms and activations compute of an element or a row, for the kernels that write it and for those that quantize
// it at once.
//
// Not for: where tiles go from there (quant/cuda/quantize_kernels.hpp).
#pragma once

#include <cmath>

#include "quant/cuda/tile.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/exponential.hpp"

namespace nibble::cuda {

__device__ inline float gated(float gate, float up) { return gate * sigmoid(gate) * up; }

/// Lanes that sum a row, as those of simd.hpp do: each takes every sixteenth element in order, then a tree joins them.
inline constexpr unsigned sum_lanes = 16;

/// The sum of one lane's elements; load(first, k) gives number first + k of them, where `first` is a multiple of 16.
template <class Load>
__device__ float sum_of_lane(int count, const Load& load) {
  constexpr int ahead = 16;  // loads in flight
  float sum = 0;
  for (int first = 0; first < count; first += ahead) {
    float values[ahead];
    NIBBLE_UNROLL
    for (int k = 0; k < ahead; ++k) values[k] = first + k < count ? load(first, k) : 0.0f;
    NIBBLE_UNROLL
    for (const float value : values) sum += value;
  }
  return sum;
}
/// Elements of a row of `width` that lane number `in_row` sums.
__device__ inline int of_sum_lane(int width, int in_row) {
  return (width - in_row + static_cast<int>(sum_lanes) - 1) / static_cast<int>(sum_lanes);
}
/// The same bits on all of a row's lanes. All lanes of the warp call it.
__device__ inline float joined(float sum) {
  for (unsigned distance = sum_lanes / 2; distance > 0; distance /= 2) sum += of_lane(sum, lane() ^ distance);
  return sum;
}

__device__ inline float inverse_rms_of(float squares, int width, float epsilon) {
  return 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon);
}

/// The matrix between whoever makes it and its quantizer.
class MadeMatrix {
 public:
  /// Of that type; written if somebody `reads` it later.
  MadeMatrix(const Tensor& matrix, bool reads)
      : narrow_(matrix.dtype == DType::bf16), to_(reads ? TileTarget(matrix) : TileTarget()) {}

  /// Elements [col, col + count) of a row become what the matrix has there.
  __device__ void pass(int64_t row, int64_t col, int count, float (&values)[group_elements]) const {
    if (narrow_) pass_as<bf16>(row, col, count, values);
    else pass_as<float>(row, col, count, values);
  }

 private:
  template <class T>
  __device__ void pass_as(int64_t row, int64_t col, int count, float (&values)[group_elements]) const {
    T elements[group_elements];
    for (int j = 0; j < group_elements; ++j) {
      elements[j] = rounded_to<T>(values[j]);
      values[j] = static_cast<float>(elements[j]);
    }
    if (to_.data) store_group(static_cast<T*>(to_.data) + row * to_.stride + col, to_.packs, count, elements);
  }

  bool narrow_;
  TileTarget to_;
};

}  // namespace nibble::cuda
