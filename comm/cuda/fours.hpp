// Neighbouring elements of a vector by the four, 16 bytes, and the entries that are made of them.
#pragma once

#include "comm/sparse_stream.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/real.hpp"

namespace nibble::cuda {

inline constexpr int four = 4;
using Four = Pack<float, four>;

/// Whether fours of a vector lie where they can be moved at once.
inline bool fours_fit(const float* vector) { return reinterpret_cast<uintptr_t>(vector) % sizeof(Four) == 0; }

/// Of the elements from `from` on there are `present` >= 0; those behind are 0.
__device__ inline Four load_four(const float* from, int64_t present, bool fits) {
  if (fits && present >= four) return *reinterpret_cast<const Four*>(from);
  Four values{};
  NIBBLE_UNROLL
  for (int i = 0; i < four; ++i)
    if (i < present) values[i] = from[i];
  return values;
}

/// On 16 bytes.
__device__ inline void store_four(const Four& values, float* to, int64_t present) {
  if (present >= four) {
    *reinterpret_cast<Four*>(to) = values;
    return;
  }
  NIBBLE_UNROLL
  for (int i = 0; i < four; ++i)
    if (i < present) to[i] = values[i];
}

/// Both words at once.
__device__ inline void store_entry(SparseEntry* to, int64_t index, float value) {
  using Words = Pack<uint32_t, 2>;
  *reinterpret_cast<Words*>(to) = Words{{static_cast<uint32_t>(index), simd::as<uint32_t>(value)}};
}

}  // namespace nibble::cuda
