// Element by element: threads take groups of neighbours in a row, 16 bytes of bf16 at once where rows allow it.
#pragma once

#include <algorithm>

#include "tensor/cuda/kernel.hpp"
#include "tensor/dtype.hpp"
#include "tensor/real.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble::cuda {

inline constexpr int group_elements = 8;

struct Group {
  float values[group_elements];

  __device__ float& operator[](int i) { return values[i]; }
  __device__ float operator[](int i) const { return values[i]; }
};

/// Elements that a group moves at once: 16 bytes of them where it has so many.
template <class T>
inline constexpr int pack_elements = sizeof(T) * group_elements < 16 ? group_elements
                                                                     : static_cast<int>(16 / sizeof(T));

/// Whether groups of a matrix with these rows can be moved so: each begins where a pack may.
template <class T>
bool packs_fit(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % (pack_elements<T> * sizeof(T)) == 0 && stride % group_elements == 0;
}

/// The first `count` elements of a group, the others zero; in packs if these fit.
template <class T>
__device__ void load_group(const T* from, bool packs, int count, T (&to)[group_elements]) {
  constexpr int pack = pack_elements<T>;
  if (packs && count == group_elements) {
    for (int part = 0; part < group_elements / pack; ++part) {
      const auto packed = reinterpret_cast<const Pack<T, pack>*>(from)[part];
      for (int j = 0; j < pack; ++j) to[part * pack + j] = packed[j];
    }
  } else {  // elements of a group whose numbers are no constants would not be registers
    for (int j = 0; j < group_elements; ++j) to[j] = j < count ? from[j] : T{};
  }
}
template <class T>
__device__ void store_group(T* to, bool packs, int count, const T (&from)[group_elements]) {
  constexpr int pack = pack_elements<T>;
  if (packs && count == group_elements) {
    for (int part = 0; part < group_elements / pack; ++part) {
      Pack<T, pack> packed;
      for (int j = 0; j < pack; ++j) packed[j] = from[part * pack + j];
      reinterpret_cast<Pack<T, pack>*>(to)[part] = packed;
    }
  } else {
    for (int j = 0; j < group_elements; ++j)
      if (j < count) to[j] = from[j];
  }
}

/// As the host's kernels round; but a NaN, which becomes 0x7fff or 0xffff there, is 0x7fff where a GPU's instruction
/// rounds.
template <class T>
__device__ T rounded_to(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
#if defined(__CUDA_ARCH__)
    return bf16(value);
#else
    bf16 result;
    result.bits = static_cast<uint16_t>(simd::bf16_bits(value));
    return result;
#endif
  }
}

/// The rows of a matrix on a device, read as floats and rounded to nearest when written.
template <class T>
class Rows {
 public:
  /// Groups begin at columns that are sums of multiples of a group's elements and of `part`: of matrices that have
  /// several things side by side, each so wide.
  explicit Rows(const Tensor& matrix, int64_t part = group_elements)
      : data_(matrix.on_device<T>()),
        stride_(matrix.rows > 1 ? matrix.stride : 0),
        packs_(packs_fit(data_, stride_) && part % group_elements == 0) {}

  __device__ T* row(int64_t i) const { return data_ + i * stride_; }

  /// Elements [col, col + count) of a row; what is behind `count` is 0.
  __device__ Group load(int64_t i, int64_t col, int count) const {
    T elements[group_elements];
    load_group(row(i) + col, packs_, count, elements);
    Group group;
    for (int j = 0; j < group_elements; ++j) group[j] = static_cast<float>(elements[j]);
    return group;
  }

  __device__ void store(int64_t i, int64_t col, int count, const Group& group) const {
    T elements[group_elements];
    for (int j = 0; j < group_elements; ++j) elements[j] = rounded_to<T>(group[j]);
    store_group(row(i) + col, packs_, count, elements);
  }

 private:
  T* data_;
  int64_t stride_;
  bool packs_;
};

template <class Body>
__global__ void each_group(int64_t rows, int64_t cols, Body body) {
  const int64_t col = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * group_elements;
  if (col >= cols) return;
  const auto count = static_cast<int>(cols - col < group_elements ? cols - col : group_elements);
  for (int64_t row = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; row < rows; row += int64_t{gridDim.y} * blockDim.y)
    body(row, col, count);
}

/// body(row, col, count) for each group of a matrix [rows, cols], on the device.
template <class Body>
void for_each_group(Stream& stream, int64_t rows, int64_t cols, const Body& body) {
  if (rows == 0 || cols == 0) return;
  constexpr unsigned threads = 256, most_blocks = 65535;
  const int64_t groups = (cols + group_elements - 1) / group_elements;
  unsigned across = 1;
  while (across < threads && across < groups) across *= 2;
  const unsigned down = threads / across;
  const auto blocks_across = static_cast<unsigned>((groups + across - 1) / across);
  const auto blocks_down = static_cast<unsigned>(std::min<int64_t>((rows + down - 1) / down, most_blocks));
  launch(stream.queue(), {blocks_across, blocks_down}, {across, down}, 0, each_group<Body>, rows, cols, body);
}

/// action(type) with a value of the element type, f32 or bf16.
template <class Action>
void with_float_type(DType type, Action&& action) {
  if (type == DType::bf16) action(bf16());
  else action(float());
}

}  // namespace nibble::cuda
