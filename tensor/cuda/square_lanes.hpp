// Squares added over as many lanes as the host's kernels have, and in their order (tensor/simd.hpp), to the same bits.
//
// Not for: which elements a half warp has, nor what becomes of its sum.
#pragma once

#include <cstdint>

#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda {

inline constexpr unsigned square_lanes = 16;

/// The squares of those of `count` terms that the thread's lane has, every sixteenth, one after the other; eight are
/// read ahead. term(i) is the i-th one, float or double.
template <class Term>
__device__ double lane_squares(int64_t count, Term&& term) {
  constexpr int ahead = 8;
  double squares = 0;
  int64_t i = threadIdx.x % square_lanes;
  for (; i + (ahead - 1) * int64_t{square_lanes} < count; i += ahead * int64_t{square_lanes}) {
    decltype(term(i)) read[ahead];
    NIBBLE_UNROLL
    for (int j = 0; j < ahead; ++j) read[j] = term(i + j * int64_t{square_lanes});
    NIBBLE_UNROLL
    for (int j = 0; j < ahead; ++j) {
      const double value = read[j];
      squares += value * value;
    }
  }
  for (; i < count; i += square_lanes) {
    const double value = term(i);
    squares += value * value;
  }
  return squares;
}

/// Of sixteen neighbouring lanes, in the order of simd::sum: 0 + 8, 1 + 9, ... then 0 + 4, 0 + 2, 0 + 1.
__device__ inline double sum_of_square_lanes(double value) {
  for (unsigned distance = square_lanes / 2; distance > 0; distance /= 2) value += of_lane(value, lane() ^ distance);
  return value;
}

}  // namespace nibble::cuda
