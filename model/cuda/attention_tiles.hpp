// What attention's kernels are made of: rows of one head, tiles of them in a block's memory, and products of tiles,
// whose sums lie in the registers of a warp.
//
// Operands in bf16 are multiplied by tensor cores, operands in f32 with plain arithmetic in the same layout: of a
// product, lane l has the elements that an mma leaves it (tensor/cuda/fragments.hpp). Sums are f32, over ascending
// numbers as far as the instruction says. Not for: softmax and masks (attention_forward.cu, attention_backward.cu).
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>

#include "model/attention.hpp"
#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda::attention {

/// Elements of 16 bytes, the widest access.
template <class T>
inline constexpr int chunk_of = static_cast<int>(16 / sizeof(T));

/// How many rows of a head a block works on, for heads of up to `width` elements.
///
/// A tile that stays while others pass takes 32 KB in the forward pass, each of two takes 16 KB in the backward pass,
/// and each of the four that pass (keys and values, or queries and gradients, and the next ones of both, which are on
/// their way) takes 8 KB: with padding at most 69 KB, so that a processor with 228 KB has them for three blocks, and
/// one with 100 KB for one. What a warp sums in registers bounds its rows: 32 with one sum as wide as a head, 16 with
/// two.
template <class T, int width>
struct BlockRows {
  static constexpr int row_bytes = width * static_cast<int>(sizeof(T));
  static constexpr int forward = std::min(128, (32 << 10) / row_bytes);
  static constexpr int backward = std::min(64, (16 << 10) / row_bytes);
  static constexpr int passing = std::min(64, (8 << 10) / row_bytes);
  static constexpr int forward_warps = 4, backward_warps = backward / 16;
  static constexpr unsigned forward_threads = forward_warps * warp_lanes,
                            backward_threads = backward_warps * warp_lanes;
};

/// Rows of one head in a matrix of heads side by side, from the first token of a sequence on.
template <class T>
struct HeadRows {
  T* data;
  int64_t stride;
  int columns;
  bool wide;  ///< rows begin, and end, on multiples of 16 bytes

  __device__ T* row(int64_t i) const { return data + i * stride; }
};

/// A matrix [tokens, heads * head_dim].
template <class T>
class Heads {
 public:
  Heads(const Tensor& matrix, int64_t head_dim)
      : data_(matrix.on_device<T>()),
        stride_(matrix.stride),
        head_dim_(static_cast<int>(head_dim)),
        wide_(reinterpret_cast<uintptr_t>(data_) % 16 == 0 && stride_ % chunk_of<T> == 0 &&
              head_dim % chunk_of<T> == 0) {}

  __device__ HeadRows<T> of(int64_t first_token, int head) const {
    return {data_ + first_token * stride_ + int64_t{head} * head_dim_, stride_, head_dim_, wide_};
  }

 private:
  T* data_;
  int64_t stride_;
  int head_dim_;
  bool wide_;
};

/// Rows of `width` elements in a block's memory. They lie 16 bytes further apart than they are wide: eight of them at
/// one column are in different banks.
template <class T, int tile_width>
struct Tile {
  static constexpr int width = tile_width, stride = width + chunk_of<T>;
  static constexpr size_t bytes(int rows) { return static_cast<size_t>(rows) * stride * sizeof(T); }

  T* data;

  __device__ T* at(int row, int col) const { return data + row * stride + col; }
  /// The tile that lies so many rows behind.
  __device__ Tile behind(int rows) const { return {data + rows * stride}; }
};

/// Begins to copy rows [first, first + rows) of a head to a tile; zeros where the sequence, or the head, has ended.
template <class T, int width>
__device__ void load_rows(const Tile<T, width>& tile, int rows, const HeadRows<T>& head, int first, int length) {
  constexpr int chunk = chunk_of<T>, chunks = width / chunk;
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks; i += static_cast<int>(blockDim.x)) {
    const int row = i / chunks, col = i % chunks * chunk;
    const bool present = first + row < length && col < head.columns;
    const T* const from = present ? head.row(first + row) + col : head.data;
    T* const to = tile.at(row, col);
    if (head.wide) {
      copy_async<16>(to, from, present);
    } else {
      for (int j = 0; j < chunk; ++j) to[j] = present && col + j < head.columns ? from[j] : T(0.0f);
    }
  }
}

/// A warp's part of a product: `row_tiles` times 16 rows, `col_tiles` times 8 columns. A lane has some elements of
/// 2 row_tiles rows, 2 col_tiles in each.
template <int row_tiles, int col_tiles>
struct Sums {
  static constexpr int rows = 2 * row_tiles, cols = 2 * col_tiles;

  FragmentC tiles[row_tiles][col_tiles] = {};

  /// Of the lane's i-th row, its j-th element.
  __device__ float& at(int i, int j) { return tiles[i / 2][j / 2].values[2 * (i % 2) + j % 2]; }
  __device__ float at(int i, int j) const { return tiles[i / 2][j / 2].values[2 * (i % 2) + j % 2]; }
  /// Which row of the warp's that is, and which column.
  __device__ static int row(int i) { return 8 * i + static_cast<int>(lane() / 4); }
  __device__ static int col(int j) { return 8 * (j / 2) + 2 * static_cast<int>(lane() % 4) + j % 2; }
};

/// Of the four lanes that share rows; each gets the same bits.
template <class Combine>
__device__ float over_row(float value, Combine combine) {
  value = combine(value, of_lane(value, lane() ^ 1u));
  return combine(value, of_lane(value, lane() ^ 2u));
}

/// sums += a b^T, where the warp's rows of `a` begin at `first`.
template <int row_tiles, int col_tiles, int width>
__device__ void multiply_rows(Sums<row_tiles, col_tiles>& sums, const Tile<bf16, width>& a, int first,
                              const Tile<bf16, width>& b) {
  static_assert(col_tiles % 2 == 0);
  const int l = static_cast<int>(lane());
  NIBBLE_UNROLL
  for (int k = 0; k < width; k += 16) {
    FragmentA left[row_tiles];
    NIBBLE_UNROLL
    for (int r = 0; r < row_tiles; ++r) left[r] = load_matrices<false>(a.at(first + 16 * r + l % 16, k + l / 16 * 8));
    NIBBLE_UNROLL
    for (int c = 0; c < col_tiles; c += 2) {
      const Fragment<4> right = load_matrices<false>(b.at(8 * c + l / 16 * 8 + l % 8, k + l / 8 % 2 * 8));
      NIBBLE_UNROLL
      for (int r = 0; r < row_tiles; ++r) {
        mma(sums.tiles[r][c], left[r], {right.pairs[0], right.pairs[1]});
        mma(sums.tiles[r][c + 1], left[r], {right.pairs[2], right.pairs[3]});
      }
    }
  }
}

template <int row_tiles, int col_tiles, int width>
__device__ void multiply_rows(Sums<row_tiles, col_tiles>& sums, const Tile<float, width>& a, int first,
                              const Tile<float, width>& b) {
  using Quad = Pack<float, 4>;
  using Result = Sums<row_tiles, col_tiles>;
  for (int k = 0; k < width; k += 4) {
    Quad left[Result::rows];
    NIBBLE_UNROLL
    for (int i = 0; i < Result::rows; ++i) left[i] = *reinterpret_cast<const Quad*>(a.at(first + Result::row(i), k));
    NIBBLE_UNROLL
    for (int j = 0; j < Result::cols; ++j) {
      const Quad right = *reinterpret_cast<const Quad*>(b.at(Result::col(j), k));
      NIBBLE_UNROLL
      for (int i = 0; i < Result::rows; ++i) {
        NIBBLE_UNROLL
        for (int l = 0; l < 4; ++l) sums.at(i, j) = fmaf(left[i][l], right[l], sums.at(i, j));
      }
    }
  }
}

/// sums += a b, where `a` is a product's result, rounded to the operands' type, with a column for each row of b.
template <int row_tiles, int inner_tiles, int width>
__device__ void multiply_sums(Sums<row_tiles, width / 8>& sums, const Sums<row_tiles, inner_tiles>& a,
                              const Tile<bf16, width>& b) {
  static_assert(inner_tiles % 2 == 0);
  const int l = static_cast<int>(lane());
  NIBBLE_UNROLL
  for (int k = 0; k < inner_tiles; k += 2) {
    FragmentA left[row_tiles];
    NIBBLE_UNROLL
    for (int r = 0; r < row_tiles; ++r) {
      const FragmentC &first = a.tiles[r][k], &second = a.tiles[r][k + 1];
      left[r] = {bf16_pair(first.values[0], first.values[1]), bf16_pair(first.values[2], first.values[3]),
                 bf16_pair(second.values[0], second.values[1]), bf16_pair(second.values[2], second.values[3])};
    }
    NIBBLE_UNROLL
    for (int c = 0; c < width / 8; c += 2) {
      const Fragment<4> right = load_matrices<true>(b.at(8 * k + l % 16, 8 * c + l / 16 * 8));
      NIBBLE_UNROLL
      for (int r = 0; r < row_tiles; ++r) {
        mma(sums.tiles[r][c], left[r], {right.pairs[0], right.pairs[1]});
        mma(sums.tiles[r][c + 1], left[r], {right.pairs[2], right.pairs[3]});
      }
    }
  }
}

template <int row_tiles, int inner_tiles, int width>
__device__ void multiply_sums(Sums<row_tiles, width / 8>& sums, const Sums<row_tiles, inner_tiles>& a,
                              const Tile<float, width>& b) {
  using Inner = Sums<row_tiles, inner_tiles>;
  using Result = Sums<row_tiles, width / 8>;
  using Pair = Pack<float, 2>;
  const unsigned first_lane = lane() / 4 * 4;
  NIBBLE_UNROLL
  for (int tile = 0; tile < inner_tiles; ++tile) {
    for (unsigned holder = 0; holder < 4; ++holder) {
      NIBBLE_UNROLL
      for (int side = 0; side < 2; ++side) {
        float left[Inner::rows];
        NIBBLE_UNROLL
        for (int i = 0; i < Inner::rows; ++i) left[i] = of_lane(a.at(i, 2 * tile + side), first_lane + holder);
        const int k = 8 * tile + 2 * static_cast<int>(holder) + side;
        NIBBLE_UNROLL
        for (int j = 0; j < Result::cols; j += 2) {
          const Pair right = *reinterpret_cast<const Pair*>(b.at(k, Result::col(j)));
          NIBBLE_UNROLL
          for (int i = 0; i < Result::rows; ++i) {
            sums.at(i, j) = fmaf(left[i], right[0], sums.at(i, j));
            sums.at(i, j + 1) = fmaf(left[i], right[1], sums.at(i, j + 1));
          }
        }
      }
    }
  }
}

/// The sums of all warps become rows [first, first + ...) of a head, by way of a tile that nobody reads any more; the
/// warp's begin at `warp_first` of it. All threads of the block call it.
template <class T, int width, int row_tiles>
__device__ void store_rows(const Sums<row_tiles, width / 8>& sums, const Tile<T, width>& tile, int warp_first,
                           const HeadRows<T>& head, int first, int length) {
  using Result = Sums<row_tiles, width / 8>;
  constexpr int chunk = chunk_of<T>, chunks = width / chunk;
  const int rows = static_cast<int>(blockDim.x / warp_lanes) * 16 * row_tiles;
  NIBBLE_UNROLL
  for (int i = 0; i < Result::rows; ++i) {
    NIBBLE_UNROLL
    for (int j = 0; j < Result::cols; ++j) *tile.at(warp_first + Result::row(i), Result::col(j)) = T(sums.at(i, j));
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks; i += static_cast<int>(blockDim.x)) {
    const int row = i / chunks, col = i % chunks * chunk;
    if (first + row >= length || col >= head.columns) continue;
    T* const to = head.row(first + row) + col;
    const auto values = *reinterpret_cast<const Pack<T, chunk>*>(tile.at(row, col));
    if (head.wide) {
      *reinterpret_cast<Pack<T, chunk>*>(to) = values;
    } else {
      for (int j = 0; j < chunk && col + j < head.columns; ++j) to[j] = values[j];
    }
  }
}

/// For each step in order: work(step, stage) on what load(step, stage) has copied to one of two stages, while the next
/// step's copies are under way.
template <class Load, class Work>
__device__ void in_two_stages(int steps, Load load, Work work) {
  if (steps > 0) load(0, 0);
  commit_copies();
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) load(step + 1, (step + 1) % 2);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    work(step, step % 2);
    __syncthreads();
  }
}

inline constexpr float log2e = 1.44269504088896341f;

/// What kernels are told about sequences and heads.
struct Layout {
  int length, heads, kv_heads;
  float scale;                     ///< of scores, 1 / sqrt(hd)
  const int32_t* document_starts;  ///< null: documents are not told apart

  Layout(const AttentionShape& shape, std::span<const int32_t> starts)
      : length(static_cast<int>(shape.length)),
        heads(static_cast<int>(shape.heads)),
        kv_heads(static_cast<int>(shape.kv_heads)),
        scale(1.0f / std::sqrt(static_cast<float>(shape.head_dim))),
        document_starts(starts.empty() ? nullptr : starts.data()) {}

  __device__ int key_head(int kv_head) const { return heads + kv_head; }
  __device__ int value_head(int kv_head) const { return heads + kv_heads + kv_head; }
  /// The first key that a query of the sequence sees; its last one is its own. Queries behind the end see what the last
  /// one sees and more.
  __device__ int first_key(int64_t first_token, int query) const {
    if (!document_starts) return 0;
    return document_starts[first_token + (query < length ? query : length - 1)];
  }
  /// The first query behind `key` that does not see it, since starts never decrease.
  __device__ int end_of_queries(int64_t first_token, int key) const {
    int sees = key, end = length;
    if (!document_starts) return end;
    while (end - sees > 1) {
      const int middle = sees + (end - sees) / 2;
      if (first_key(first_token, middle) <= key) sees = middle;
      else end = middle;
    }
    return end;
  }
};

/// action(type, width) with a value of the operands' type and the narrowest width that heads are computed in, as
/// std::integral_constant.
template <class Action>
void with_operands(DType type, int64_t head_dim, Action&& action) {
  assert(head_dim <= largest_device_head_dim);
  const auto with_width = [&](auto operand) {
    if (head_dim <= 32) action(operand, std::integral_constant<int, 32>());
    else if (head_dim <= 64) action(operand, std::integral_constant<int, 64>());
    else action(operand, std::integral_constant<int, static_cast<int>(largest_device_head_dim)>());
  };
  if (type == DType::bf16) with_width(bf16());
  else with_width(float());
}

}  // namespace nibble::cuda::attention
