#include "tensor/packed_gemm.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "tensor/cpu/epilogue.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// `extent` in equal parts of at most `limit`, all but the last a multiple of `step`: the length of a part.
int64_t part_length(int64_t extent, int64_t limit, int64_t step) {
  if (extent == 0) return step;
  const int64_t parts = ceil_div(extent, std::max(step, limit));
  return ceil_div(ceil_div(extent, parts), step) * step;
}

/// A part of C: rows [row, row + rows), columns [col, col + cols).
struct Region {
  int64_t row, rows, col, cols;
};

/// The rows [first, first + count) of op(x)'s outer axis, [depth_first, + depth) of the reduction axis.
Tensor part(const Tensor& x, bool depth_major, int64_t first, int64_t count, int64_t depth_first, int64_t depth) {
  return depth_major ? x.slice_rows(depth_first, depth).slice_cols(first, count)
                     : x.slice_rows(first, count).slice_cols(depth_first, depth);
}

/// One thread's packed blocks and partial sums.
struct Blocks {
  Buffer a, b, partial, row_terms, col_terms;

  static Blocks& of_thread(const TileKernel& kernel) {
    thread_local Blocks blocks;
    const auto reserve = [](Buffer& buffer, size_t bytes) {
      if (buffer.bytes() < bytes) buffer = Buffer(bytes, "GEMM blocks");
    };
    reserve(blocks.a, a_bytes(kernel));
    reserve(blocks.b, b_bytes(kernel));
    reserve(blocks.partial, partial_bytes(kernel));
    reserve(blocks.row_terms, row_terms_bytes(kernel));
    reserve(blocks.col_terms, col_terms_bytes(kernel));
    return blocks;
  }

  static size_t a_bytes(const TileKernel& kernel) {
    return bytes_of(kernel.panel_type, kernel.row_block, kernel.padded_depth(kernel.depth_block));
  }
  static size_t b_bytes(const TileKernel& kernel) {
    return bytes_of(kernel.panel_type, kernel.col_block, kernel.padded_depth(kernel.depth_block));
  }
  static size_t partial_bytes(const TileKernel& kernel) {
    return bytes_of(kernel.sum_type, kernel.region_rows, kernel.col_block);
  }
  static size_t row_terms_bytes(const TileKernel& kernel) {
    return kernel.panel_type == DType::i8 ? bytes_of(DType::f64, 1, kernel.region_rows) : 0;
  }
  static size_t col_terms_bytes(const TileKernel& kernel) {
    return kernel.panel_type == DType::i8 ? bytes_of(DType::f64, 1, kernel.col_block) : 0;
  }
};

/// Elements of four bytes as they are, or floats rounded to bf16.
void copy_tile(const Tensor& from, const Tensor& to) {
  for (int64_t i = 0; i < to.rows; ++i)
    if (to.dtype == DType::bf16) {
      simd::for_each_group(to.cols, [&](int64_t j, int64_t count) {
        simd::store_n(to.row<bf16>(i) + j, simd::load_n(from.row<float>(i) + j, count), count);
      });
    } else {
      std::memcpy(to.slice_rows(i, 1).data, from.slice_rows(i, 1).data,
                  static_cast<size_t>(to.cols) * size_of(to.dtype));
    }
}

/// A tile at the edge of C, or one whose sums are finished: computed whole beside C, its valid part brought there.
void multiply_beside(const TileKernel& kernel, int64_t depth, const void* a, const void* b, const Tensor& start,
                     const Tensor& target, const Epilogue* epilogue) {
  assert(kernel.rows <= 32 && kernel.cols <= 32);
  alignas(alignment) unsigned char memory[32 * 32 * 4];
  const Tensor tile(kernel.sum_type, memory, target.rows, target.cols, 32);
  const TileTarget sums{tile.dtype, tile.data, tile.stride};
  const bool whole = target.rows == kernel.rows && target.cols == kernel.cols;
  if (start && !whole) {
    std::memset(memory, 0, sizeof memory);
    copy_tile(start, tile);
    kernel.multiply(depth, a, b, tile.data, tile.stride, sums);
  } else {
    kernel.multiply(depth, a, b, start.data, start.stride, sums);
  }
  if (epilogue) finish(tile, *epilogue, target);
  else copy_tile(tile, target);
}

/// For each of `count` rows (or columns) of panels of i8: the sums that they open with, times an offset, onto `terms`.
void add_sums(const void* panels, int64_t width, int64_t padded_depth, double offset, int64_t count, double* terms) {
  for (int64_t i = 0; i < count; ++i) {
    int32_t sum;
    std::memcpy(&sum, static_cast<const char*>(panels) + i / width * width * padded_depth + i % width * 4, sizeof sum);
    terms[i] += offset * sum;
  }
}

/// region = start + packed a x packed b, tile by tile; start and target are views of the region. With an epilogue (of
/// the region) the sums are complete, and the target is C.
void multiply_blocks(const TileKernel& kernel, int64_t depth, const void* a, const void* b, const Tensor& start,
                     const Tensor& target, const Epilogue* epilogue) {
  const int64_t element = static_cast<int64_t>(size_of(kernel.panel_type));
  for (int64_t j = 0; j < target.cols; j += kernel.cols) {
    const void* panel_b = static_cast<const char*>(b) + j * depth * element;
    const int64_t cols = std::min(kernel.cols, target.cols - j);
    for (int64_t i = 0; i < target.rows; i += kernel.rows) {
      const void* panel_a = static_cast<const char*>(a) + i * depth * element;
      const int64_t rows = std::min(kernel.rows, target.rows - i);
      const auto tile = [&](const Tensor& x) { return x ? x.slice_rows(i, rows).slice_cols(j, cols) : Tensor(); };
      const Tensor from = tile(start), to = tile(target);
      if (epilogue) {
        const Epilogue finishing = epilogue->part(i, rows, j, cols);
        multiply_beside(kernel, depth, panel_a, panel_b, from, to, &finishing);
      } else if (rows < kernel.rows || cols < kernel.cols) {
        multiply_beside(kernel, depth, panel_a, panel_b, from, to, nullptr);
      } else {
        kernel.multiply(depth, panel_a, panel_b, from.data, from.stride, {to.dtype, to.data, to.stride});
      }
    }
  }
}

/// B is packed once for each block of the depth, A by blocks of rows that stay in L2 beside it.
void multiply_region(const TileKernel& kernel, const Product& product, const Region& region) {
  Blocks& blocks = Blocks::of_thread(kernel);
  const auto view = [&](const Tensor& x) {
    return x ? x.slice_rows(region.row, region.rows).slice_cols(region.col, region.cols) : Tensor();
  };
  const int64_t depth = product.depth(), depth_block = part_length(depth, kernel.depth_block, kernel.depth_step),
                row_block = part_length(region.rows, kernel.row_block, kernel.rows);
  const Tensor target = view(product.c);
  const Scaling& scaling = product.scaling;
  const bool finished = kernel.sum_type == DType::i32 || !scaling.trivial();
  Epilogue epilogue =
      Epilogue{.scaling = scaling, .addend = product.addend}.part(region.row, region.rows, region.col, region.cols);
  if (scaling.has_offsets()) {
    epilogue.row_terms = Tensor(DType::f64, blocks.row_terms.data(), 1, region.rows);
    epilogue.col_terms = Tensor(DType::f64, blocks.col_terms.data(), 1, region.cols);
    std::fill_n(epilogue.row_terms.as<double>(), region.rows,
                static_cast<double>(depth) * scaling.a_offset * scaling.b_offset);
    std::fill_n(epilogue.col_terms.as<double>(), region.cols, 0.0);
  }
  // What is added last must not be overwritten before.
  const bool in_c = target.dtype == DType::f32 && !(finished && product.addend);
  const Tensor partial =
      in_c ? Tensor(kernel.sum_type, target.data, region.rows, region.cols, target.stride)
           : Tensor(kernel.sum_type, blocks.partial.data(), region.rows, region.cols, kernel.col_block);
  Tensor start = finished ? Tensor() : view(product.addend);
  int64_t first = 0;
  if (kernel.enter) kernel.enter();
  do {  // a product of depth 0 still writes its addend
    const int64_t count = std::min(depth_block, depth - first);
    const bool last = first + count == depth;
    const Tensor& into = last ? target : partial;
    kernel.pack_cols(part(product.b, !product.transpose_b, region.col, region.cols, first, count), !product.transpose_b,
                     blocks.b.data());
    if (scaling.has_offsets())
      add_sums(blocks.b.data(), kernel.cols, kernel.padded_depth(count), scaling.a_offset, region.cols,
               epilogue.col_terms.as<double>());
    for (int64_t row = 0; row < region.rows; row += row_block) {
      const int64_t rows = std::min(row_block, region.rows - row);
      kernel.pack_rows(part(product.a, product.transpose_a, region.row + row, rows, first, count), product.transpose_a,
                       blocks.a.data());
      if (scaling.has_offsets())
        add_sums(blocks.a.data(), kernel.rows, kernel.padded_depth(count), scaling.b_offset, rows,
                 epilogue.row_terms.as<double>() + row);
      const Epilogue finishing = epilogue.part(row, rows, 0, region.cols);
      multiply_blocks(kernel, kernel.padded_depth(count), blocks.a.data(), blocks.b.data(),
                      start ? start.slice_rows(row, rows) : Tensor(), into.slice_rows(row, rows),
                      finished && last ? &finishing : nullptr);
    }
    first += count;
    start = partial;
  } while (first < depth);
  if (kernel.leave) kernel.leave();
}

/// C cut into regions of equal shape, at most region_rows x col_block.
struct Grid {
  int64_t rows, cols;  ///< of a region
  int64_t row_regions, col_regions;

  Grid(const TileKernel& kernel, const Tensor& c, int64_t at_least) {
    int64_t row_limit = kernel.region_rows, col_limit = kernel.col_block;
    const auto cut = [&] {
      rows = part_length(c.rows, row_limit, kernel.rows);
      cols = part_length(c.cols, col_limit, kernel.cols);
      row_regions = ceil_div(c.rows, rows);
      col_regions = ceil_div(c.cols, cols);
    };
    cut();
    // Smaller regions pack more for the same products: below four tiles each way that is worse than an idle thread.
    while (row_regions * col_regions < at_least && (rows >= 8 * kernel.rows || cols >= 8 * kernel.cols)) {
      if (rows * kernel.cols > cols * kernel.rows) row_limit = rows / 2;
      else col_limit = cols / 2;
      cut();
    }
  }
  int64_t size() const { return row_regions * col_regions; }
  Region region(int64_t index, const Tensor& c) const {
    const int64_t row = index % row_regions * rows, col = index / row_regions * cols;
    return {row, std::min(rows, c.rows - row), col, std::min(cols, c.cols - col)};
  }
};

}  // namespace

size_t packed_gemm_scratch_bytes(const TileKernel& kernel) {
  return Blocks::a_bytes(kernel) + Blocks::b_bytes(kernel) + Blocks::partial_bytes(kernel) +
         Blocks::row_terms_bytes(kernel) + Blocks::col_terms_bytes(kernel);
}

void packed_gemm(Stream& stream, const TileKernel& kernel, const Product& product) {
  const Grid grid(kernel, product.c, stream.threads() == 1 ? 1 : 2 * stream.threads());
  parallel_tasks(stream, grid.size(),
                 [&](int64_t task, int64_t) { multiply_region(kernel, product, grid.region(task, product.c)); });
}

void packed_gemm_in_task(const TileKernel& kernel, const Product& product) {
  const Grid grid(kernel, product.c, 1);
  const auto multiply = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) multiply_region(kernel, product, grid.region(i, product.c));
  };
  detail::run(Isa::avx512, multiply, 0, grid.size());  // every tile kernel needs it
}

}  // namespace nibble
