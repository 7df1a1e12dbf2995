// Between matrices and tiles (tile.hpp). Part of the tile kernels: included by tile_kernels_*.cpp alone.
//
// Where the reduction axis is contiguous, squares of 16 x 16 words are turned. A word of 32 bits holds one f32, two
// bf16 or four bytes, so that every row gives 64 bytes at once and few words are turned for many elements.
#pragma once

#include "quant/cpu/tile.hpp"
#include "tensor/cpu/transpose.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::i32x, simd::u32x, simd::lanes;
static_assert(lanes == tile_width);

/// Elements of a type that lie in a word, the first one lowest.
template <class T>
constexpr int64_t per_word = 4 / sizeof(T);

template <class T>
[[gnu::always_inline]] inline f32x unpack(u32x words, int64_t number) {
  if constexpr (std::is_same_v<T, float>) return simd::as<f32x>(words);
  else return simd::as<f32x>(number == 0 ? words << 16 : words & 0xffff0000u);
}

template <class T>
void load_tile(const Operand& x, Axis axis, const Tile& tile) {
  const float factor = x.factor;
  const float* row_scale = x.row_scale ? x.row_scale.as<float>() : nullptr;
  const float* col_scale = x.col_scale ? x.col_scale.as<float>() : nullptr;
  if (axis == Axis::rows) {
    for (int64_t d = 0; d < tile.depth; ++d) {
      const int64_t i = tile.first + d;
      f32x v = simd::load_n(x.values.row<T>(i) + tile.outer, tile.width) * factor;
      if (row_scale) v *= row_scale[i];
      if (col_scale) v *= simd::load_n(col_scale + tile.outer, tile.width);
      simd::store(tile.row(d), v);
    }
    return;
  }
  const f32x of_lanes = row_scale ? simd::load_n(row_scale + tile.outer, tile.width) : f32x{};
  constexpr int64_t length = lanes * per_word<T>;
  for (int64_t d = 0; d < tile.depth; d += length) {
    const auto valid = static_cast<size_t>(std::min(length, tile.depth - d)) * sizeof(T);
    f32x square[lanes];
    for (int64_t r = 0; r < lanes; ++r) {
      square[r] = f32x{};
      if (r >= tile.width) continue;
      const T* from = x.values.row<T>(tile.outer + r) + tile.first + d;
      if (valid == sizeof square[r]) std::memcpy(&square[r], from, sizeof square[r]);
      else std::memcpy(&square[r], from, valid);
    }
    simd::transpose(square);
#pragma GCC unroll 16
    for (int64_t word = 0; word < lanes; ++word)
#pragma GCC unroll 2
      for (int64_t number = 0; number < per_word<T>; ++number) {
        const int64_t to = d + word * per_word<T> + number;
        f32x v = unpack<T>(simd::as<u32x>(square[word]), number) * factor;
        if (row_scale) v *= of_lanes;
        if (col_scale) v *= col_scale[tile.first + std::min(to, tile.depth - 1)];
        simd::store(tile.row(to), v);
      }
  }
}

void load_tile(const Operand& x, Axis axis, const Tile& tile) {
  if (x.values.dtype == DType::bf16) load_tile<bf16>(x, axis, tile);
  else load_tile<float>(x, axis, tile);
}

using u8x = uint8_t __attribute__((vector_size(16)));
/// The bits of one T in each lane.
template <class T>
using BitsInLanes = std::conditional_t<sizeof(T) == 4, u32x, std::conditional_t<sizeof(T) == 2, simd::u16x, u8x>>;

/// `bits(values)` gives the bits of the T that stand for sixteen values.
template <class T, class Bits>
void store_tile(const Tile& tile, Axis axis, const Tensor& y, Bits&& bits) {
  if (axis == Axis::rows) {
    for (int64_t d = 0; d < tile.depth; ++d) {
      const auto values = __builtin_convertvector(bits(simd::load(tile.row(d))), BitsInLanes<T>);
      void* const to = y.row<T>(tile.first + d) + tile.outer;
      if (tile.width == lanes) std::memcpy(to, &values, sizeof values);
      else std::memcpy(to, &values, static_cast<size_t>(tile.width) * sizeof(T));
    }
    return;
  }
  constexpr int64_t length = lanes * per_word<T>;
  for (int64_t d = 0; d < tile.depth; d += length) {
    const auto valid = static_cast<size_t>(std::min(length, tile.depth - d)) * sizeof(T);
    f32x square[lanes];
#pragma GCC unroll 16
    for (int64_t word = 0; word < lanes; ++word) {
      u32x packed{};
#pragma GCC unroll 4
      for (int64_t number = 0; number < per_word<T>; ++number)
        packed |= bits(simd::load(tile.row(d + word * per_word<T> + number)))
                  << static_cast<uint32_t>(number * 32 / per_word<T>);
      square[word] = simd::as<f32x>(packed);
    }
    simd::transpose(square);
    for (int64_t r = 0; r < tile.width; ++r) {
      void* const to = y.row<T>(tile.outer + r) + tile.first + d;
      if (valid == sizeof square[r]) std::memcpy(to, &square[r], sizeof square[r]);
      else std::memcpy(to, &square[r], valid);
    }
  }
}

/// To f32 or bf16 (rounded to nearest even).
void store_tile(const Tile& tile, Axis axis, const Tensor& y) {
  if (y.dtype == DType::bf16) store_tile<bf16>(tile, axis, y, [](f32x v) { return simd::bf16_bits(v); });
  else store_tile<float>(tile, axis, y, [](f32x v) { return simd::as<u32x>(v); });
}

}  // namespace
}  // namespace nibble
