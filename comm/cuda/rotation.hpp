// Random signs and Hadamard transforms of a bucket in a block of threads, to the bits of the host's
// (comm/cpu/rotation_kernels.hpp).
//
// A bucket has a power of two of values, at most eight for each thread of its block, whose warps are whole. Value
// 256 w + 32 k + l is value k of lane l in warp w: strides within a warp's 256 values are crossed in registers, the
// others in the block's memory. Not for: what is done with rotated values (codes.cu, correlated.cu).
#pragma once

#include "tensor/cuda/kernel.hpp"
#include "tensor/random.hpp"
#include "tensor/real.hpp"

namespace nibble::cuda {

inline constexpr int rotated_per_thread = 8, rotated_per_warp = rotated_per_thread * static_cast<int>(warp_lanes);
/// Threads of a block, each of which has eight of at most so many values.
inline unsigned threads_of_eights(int values) {
  unsigned threads = warp_lanes;
  while (static_cast<int>(threads) * rotated_per_thread < values) threads *= 2;
  return threads;
}

__device__ inline int first_of_warp() { return static_cast<int>(threadIdx.x / warp_lanes) * rotated_per_warp; }
/// Of the thread's value k.
__device__ inline int rotated_index(int k) {
  return first_of_warp() + k * static_cast<int>(warp_lanes) + static_cast<int>(lane());
}

__device__ inline float normalization(int n) { return static_cast<float>(1 / sqrt(static_cast<double>(n))); }

/// Block `index` of a part of the stream of a vector's bucket; `of_first` is that of its first bucket.
__device__ inline PhiloxBlock words_of(const RandomStream& of_first, int64_t bucket, uint32_t part, int index) {
  PhiloxBlock counter = of_first.counter((uint64_t{part} << 32) + static_cast<uint32_t>(index));
  counter[2] += static_cast<uint32_t>(bucket);
  return philox(counter, of_first.key());
}

/// Signs of a warp's values: value i of a bucket takes bit i of the part's words. All lanes of the warp make and ask
/// it.
class WarpSigns {
 public:
  __device__ WarpSigns(const RandomStream& of_first, int64_t bucket, uint32_t part)
      : words_(words_of(of_first, bucket, part, first_of_warp() / 128 + static_cast<int>(lane() % 2))) {}

  /// Of the thread's value k, in the highest bit.
  __device__ uint32_t operator()(int k) const {
    const uint32_t word = of_lane(words_[static_cast<size_t>(k % 4)], static_cast<unsigned>(k / 4));
    return word >> lane() << 31;
  }

 private:
  PhiloxBlock words_;  ///< those of even lanes are of the first 128 values
};

__device__ inline float with_sign(float v, uint32_t sign) { return simd::as<float>(simd::as<uint32_t>(v) ^ sign); }

/// Elements `stride` apart of a thread's own.
template <int stride, int count>
__device__ void cross(float (&v)[count]) {
  NIBBLE_UNROLL
  for (int j = 0; j < count; ++j) {
    if (j & stride) continue;
    const float a = v[j], b = v[j + stride];
    v[j] = a + b;
    v[j + stride] = a - b;
  }
}

/// Strides h, 2 h ... 2^(count - 1) h in the block's memory.
template <int count>
__device__ void transform_strides(float* x, int n, int h) {
  constexpr int points = 1 << count;
  for (auto i = static_cast<int>(threadIdx.x); i < n / points; i += static_cast<int>(blockDim.x)) {
    float* const first = x + ((i & ~(h - 1)) * points + (i & (h - 1)));
    float v[points];
    NIBBLE_UNROLL
    for (int j = 0; j < points; ++j) v[j] = first[j * h];
    cross<1>(v);
    if constexpr (count > 1) cross<2>(v);
    if constexpr (count > 2) cross<4>(v);
    NIBBLE_UNROLL
    for (int j = 0; j < points; ++j) first[j * h] = v[j];
  }
  __syncthreads();
}

/// x, n elements of the block's memory, becomes Sylvester's transform by ascending stride, not normalized, of what
/// value(k, i) gives of the thread's value k, which is value i: all lanes of a warp ask it at once, and what they say
/// of i >= n means nothing. Whoever used x before has been waited for; behind it everybody may read it.
template <class Value>
__device__ void transform(float* x, int n, Value&& value) {
  if (first_of_warp() < n) {
    float v[rotated_per_thread];
    NIBBLE_UNROLL
    for (int k = 0; k < rotated_per_thread; ++k) v[k] = value(k, rotated_index(k));
    for (int h = 1; h < static_cast<int>(warp_lanes) && h < n; h *= 2) {
      const bool upper = (lane() & static_cast<unsigned>(h)) != 0;
      NIBBLE_UNROLL
      for (int k = 0; k < rotated_per_thread; ++k) {
        const float other = of_lane(v[k], lane() ^ static_cast<unsigned>(h));
        v[k] = upper ? other - v[k] : v[k] + other;
      }
    }
    constexpr auto lanes = static_cast<int>(warp_lanes);
    if (n > lanes) cross<1>(v);
    if (n > 2 * lanes) cross<2>(v);
    if (n > 4 * lanes) cross<4>(v);
    NIBBLE_UNROLL
    for (int k = 0; k < rotated_per_thread; ++k)
      if (rotated_index(k) < n) x[rotated_index(k)] = v[k];
  }
  __syncthreads();
  for (int h = rotated_per_warp; h < n;) {
    if (8 * h <= n) transform_strides<3>(x, n, h), h *= 8;
    else if (4 * h <= n) transform_strides<2>(x, n, h), h *= 4;
    else transform_strides<1>(x, n, h), h *= 2;
  }
}

}  // namespace nibble::cuda
