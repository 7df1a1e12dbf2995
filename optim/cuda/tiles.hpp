// Tiles: neighbouring elements that a warp reads and writes together, as many as the largest block of codes has.
//
// Of each half of a tile a lane has four neighbours, and its neighbours the next: a warp's access is one stretch of
// memory, 16 bytes of f32 a lane. A lane has half a block of Philox numbers in each half (moment_tiles.hpp).
#pragma once

#include <cstdint>

#include "optim/moment.hpp"
#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda {

inline constexpr int tile_elements = static_cast<int>(largest_moment_tile);
inline constexpr int lane_elements = tile_elements / static_cast<int>(warp_lanes);
inline constexpr int quad = lane_elements / 2;  ///< neighbours

/// Those of one lane; [quad, lane_elements) are in the second half of the tile.
template <class T>
struct Share {
  T values[lane_elements];

  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

/// Where in the tile the lane's neighbours begin.
__device__ inline int place_of(int half) { return half * (tile_elements / 2) + quad * static_cast<int>(lane()); }

template <class T>
__device__ bool holds_quads(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Pack<T, quad>) == 0;
}

/// Of a tile of `count` elements; what is behind them is 0.
template <class T>
__device__ Share<T> load(const T* tile, int count) {
  Share<T> share{};
  for (int half = 0; half < 2; ++half) {
    const int begin = place_of(half);
    const T* const from = tile + begin;
    if (begin + quad <= count && holds_quads(from)) {
      const auto pack = *reinterpret_cast<const Pack<T, quad>*>(from);
      for (int j = 0; j < quad; ++j) share[half * quad + j] = pack[j];
    } else {
      for (int j = 0; j < quad; ++j)
        if (begin + j < count) share[half * quad + j] = from[j];
    }
  }
  return share;
}

template <class T>
__device__ void store(T* tile, int count, const Share<T>& share) {
  for (int half = 0; half < 2; ++half) {
    const int begin = place_of(half);
    T* const to = tile + begin;
    if (begin + quad <= count && holds_quads(to)) {
      Pack<T, quad> pack;
      for (int j = 0; j < quad; ++j) pack[j] = share[half * quad + j];
      *reinterpret_cast<Pack<T, quad>*>(to) = pack;
    } else {
      for (int j = 0; j < quad; ++j)
        if (begin + j < count) to[j] = share[half * quad + j];
    }
  }
}

template <class To, class From>
__device__ Share<To> converted(const Share<From>& from) {
  Share<To> to;
  for (int j = 0; j < lane_elements; ++j) to[j] = static_cast<To>(from[j]);
  return to;
}

inline constexpr unsigned tile_threads = 256;  ///< of a block: eight tiles

template <class Body>
__global__ void __launch_bounds__(tile_threads) each_tile(int64_t size, Body body) {
  const int64_t first = (int64_t{blockIdx.x} * (blockDim.x / warp_lanes) + threadIdx.x / warp_lanes) * tile_elements;
  if (first >= size) return;
  body(first, static_cast<int>(size - first < tile_elements ? size - first : tile_elements));
}

/// body(first, count), by all lanes of a warp, for each tile of so many elements.
template <class Body>
void for_each_tile(Queue& queue, int64_t size, const Body& body) {
  constexpr int64_t of_block = tile_threads / warp_lanes * tile_elements;
  if (size > 0)
    launch(queue, {static_cast<unsigned>((size + of_block - 1) / of_block)}, {tile_threads}, 0, each_tile<Body>, size,
           body);
}

}  // namespace nibble::cuda
