#include "optim/tile_products.hpp"

#include <algorithm>

namespace nibble {
namespace {

/// Rows and columns of a product that one thread computes: fixed, so that no number of threads cuts it otherwise, and
/// so large that packing its operands does not count.
constexpr int64_t tile = 256;

Tensor tile_of(const Tensor& x, int64_t row, int64_t col) {
  const int64_t rows = std::min(tile, x.rows - row), cols = std::min(tile, x.cols - col);
  return x.slice_rows(row, rows).slice_cols(col, cols);
}

/// Rows of op(a), columns of op(b).
Tensor rows_of(const Tensor& a, Transpose transpose, int64_t first, int64_t count) {
  return transpose == Transpose::yes ? a.slice_cols(first, count) : a.slice_rows(first, count);
}
Tensor cols_of(const Tensor& b, Transpose transpose, int64_t first, int64_t count) {
  return transpose == Transpose::yes ? b.slice_rows(first, count) : b.slice_cols(first, count);
}

/// Calls body(task) for every tile; a single one needs no team, which costs more than a small product.
template <class Body>
void for_each_tile(Stream& stream, int64_t count, Body&& body) {
  if (count > 1 && !omp_in_parallel()) return parallel_tasks(stream, count, [&](int64_t task, int64_t) { body(task); });
  for (int64_t task = 0; task < count; ++task) body(task);
}

}  // namespace

void square_product(Stream& stream, const Tensor& a, Transpose transpose, const Tensor& c) {
  const Transpose other = transpose == Transpose::yes ? Transpose::no : Transpose::yes;
  if (stream.on_device()) return gemm(stream, a, transpose, a, other, c);
  const int64_t count = (c.rows + tile - 1) / tile;
  for_each_tile(stream, count * (count + 1) / 2, [&](int64_t task) {
    int64_t i = 0;
    for (; task > i; ++i) task -= i + 1;
    const int64_t row = i * tile, col = task * tile;
    const Tensor result = tile_of(c, row, col);
    gemm_in_task(stream, rows_of(a, transpose, row, result.rows), transpose, cols_of(a, other, col, result.cols), other,
                 result);
    if (row == col) return;
    const Tensor mirror = tile_of(c, col, row);
    for (int64_t r = 0; r < mirror.rows; ++r)
      for (int64_t k = 0; k < mirror.cols; ++k) mirror.row<float>(r)[k] = result.row<float>(k)[r];
  });
}

void tiled_product(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                   const Tensor& c, const Tensor& addend) {
  if (stream.on_device()) return gemm(stream, a, transpose_a, b, transpose_b, c, addend);
  const int64_t across = (c.cols + tile - 1) / tile, down = (c.rows + tile - 1) / tile;
  for_each_tile(stream, across * down, [&](int64_t task) {
    const int64_t row = task / across * tile, col = task % across * tile;
    const Tensor result = tile_of(c, row, col);
    gemm_in_task(stream, rows_of(a, transpose_a, row, result.rows), transpose_a,
                 cols_of(b, transpose_b, col, result.cols), transpose_b, result,
                 addend ? tile_of(addend, row, col) : Tensor());
  });
}

size_t tile_product_scratch_bytes(const Stream& stream, DType operands, int64_t longest) {
  return longest == 0 ? 0 : gemm_scratch_bytes(stream, operands, tile * longest, tile * longest, tile * tile);
}

}  // namespace nibble
