// Hadamard transforms along the reduction axis (hadamard.hpp), of a tile in a block's memory.
//
// Butterflies by ascending stride, several strides at a time in a thread's registers; then the core's matrix across
// their results. Not for: orders whose blocks do not fit there (rotate.cu).
#pragma once

#include "quant/cuda/tile.hpp"

namespace nibble::cuda {

/// A rotation as kernels are told of it; order 0: none.
struct DeviceRotation {
  int64_t order = 0;
  int log_doublings = 0, core = 1;
  bool transposed = false;
  float normalization = 1;
  const uint32_t* signs = nullptr;    ///< bits of a block; null: none
  const uint32_t* entries = nullptr;  ///< bits of the core, row-major

  /// Puts the signs and the core where kernels that are queued next find them.
  static DeviceRotation of(Stream& stream, const Hadamard* hadamard, std::span<const float> signs, bool transposed);

  explicit operator bool() const { return order != 0; }
  /// What is multiplied with before the transform.
  const uint32_t* signs_before() const { return transposed ? nullptr : signs; }

  /// What value d of a block is multiplied with behind the transform.
  __device__ float behind(int64_t d) const {
    return transposed && signs ? normalization * sign_of(signs, static_cast<int>(d)) : normalization;
  }
  /// Of the transform's sum for value `row`: what value `k` of the core's column is multiplied with.
  __device__ float entry(int row, int k) const {
    return sign_of(entries, transposed ? row * core + k : k * core + row);
  }
};

/// 2^stages values, which load(i) gives, through butterflies of as many strides, to store(i, v).
template <int stages, class Load, class Store>
__device__ void butterfly(Load&& load, Store&& store) {
  constexpr int count = 1 << stages;
  float v[count];
  for (int i = 0; i < count; ++i) v[i] = load(i);
  for (int h = 1; h < count; h *= 2)
    for (int i = 0; i < count; ++i) {
      if ((i & h) != 0) continue;
      const float a = v[i], b = v[i + h];
      v[i] = a + b;
      v[i + h] = a - b;
    }
  for (int i = 0; i < count; ++i) store(i, v[i]);
}
inline constexpr int most_stages = 4;

/// Strides that a thread takes at once, of 2^log_doublings values of which those below 2^log_distance are done.
constexpr int stages_at(int log_distance, int log_doublings) {
  return log_doublings - log_distance < most_stages ? log_doublings - log_distance : most_stages;
}

template <int stages>
__device__ void butterflies_of_tile(const DeviceRotation& rotation, const TileShape& shape, int count, float* tile,
                                    int log_distance, bool finishes) {
  const int distance = 1 << log_distance, units = count >> stages << shape.log_width;
  const int order = static_cast<int>(rotation.order);
  for (int i = static_cast<int>(threadIdx.x); i < units; i += static_cast<int>(blockDim.x)) {
    const int unit = i >> shape.log_width,
              first = ((unit >> log_distance) << (log_distance + stages)) + (unit & (distance - 1));
    const SharedRows rows = rows_of(tile, shape.log_width, i & ((1 << shape.log_width) - 1));
    butterfly<stages>([&](int j) { return rows.load(first + j * distance); },
                      [&](int j, float v) {
                        const int d = first + j * distance;
                        rows.store(d, finishes ? v * rotation.behind(d & (order - 1)) : v);
                      });
  }
}

/// The core across the doubled parts of each block; `columns` has room for `room` floats, a column at least.
__device__ inline void multiply_core_of_tile(const DeviceRotation& rotation, const TileShape& shape, int count,
                                             float* tile, float* columns, int room) {
  const int order = static_cast<int>(rotation.order), doublings = 1 << rotation.log_doublings, core = rotation.core,
            all = count / order * doublings << shape.log_width, at_once = room / core;
  const auto place = [&](int column, int row) -> float& {
    const int number = column >> shape.log_width;
    return rows_of(tile, shape.log_width, column & ((1 << shape.log_width) - 1))
        .at(number / doublings * order + row * doublings + number % doublings);
  };
  for (int first = 0; first < all; first += at_once) {
    const int now = all - first < at_once ? all - first : at_once;
    for (int i = static_cast<int>(threadIdx.x); i < now * core; i += static_cast<int>(blockDim.x))
      columns[i] = place(first + i % now, i / now);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < now * core; i += static_cast<int>(blockDim.x)) {
      const int column = i % now, row = i / now, number = (first + column) >> shape.log_width;
      float sum = 0;
      for (int k = 0; k < core; ++k) sum += columns[k * now + column] * rotation.entry(row, k);
      place(first + column, row) = sum * rotation.behind(row * doublings + number % doublings);
    }
    __syncthreads();
  }
}

/// The tile's blocks become x D H (D while they were loaded), or x H^T D. All threads call it, and see it done.
__device__ inline void rotate_tile(const DeviceRotation& rotation, const TileShape& shape, int count, float* tile,
                                   float* columns, int room) {
  __syncthreads();
  if (rotation.order == 0) return;
  const bool ends = rotation.core == 1;
  for (int log_distance = 0; log_distance < rotation.log_doublings;) {
    const int stages = stages_at(log_distance, rotation.log_doublings);
    const bool finishes = ends && log_distance + stages == rotation.log_doublings;
    if (stages == 1) butterflies_of_tile<1>(rotation, shape, count, tile, log_distance, finishes);
    else if (stages == 2) butterflies_of_tile<2>(rotation, shape, count, tile, log_distance, finishes);
    else if (stages == 3) butterflies_of_tile<3>(rotation, shape, count, tile, log_distance, finishes);
    else butterflies_of_tile<4>(rotation, shape, count, tile, log_distance, finishes);
    __syncthreads();
    log_distance += stages;
  }
  if (!ends) {
    multiply_core_of_tile(rotation, shape, count, tile, columns, room);
  } else if (rotation.log_doublings == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < count << shape.log_width; i += static_cast<int>(blockDim.x))
      SharedRows{tile, i, 1}.at(0) *= rotation.behind(0);
    __syncthreads();
  }
}

}  // namespace nibble::cuda
