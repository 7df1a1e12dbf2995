// The innermost part of a matrix product: one tile of C from a panel of A and a panel of B.
//
// A panel holds a few rows of A (or columns of B) over one block of the reduction axis, in the order in which the
// kernel reads them, widened or paired as its instructions want, and padded. A kernel is a row of data: the
// loops around it (packed_gemm.hpp) and whoever writes panels directly know it only through this struct.
// Scheme: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), 2008.
#pragma once

#include <cstdint>

#include "tensor/tensor.hpp"

namespace nibble {

/// Where a kernel puts its tile, rounded to the type of C.
struct TileTarget {
  DType dtype = DType::f32;
  void* data = nullptr;
  int64_t stride = 0;  ///< in elements
};

struct TileKernel {
  const char* name;
  DType panel_type;             ///< of a panel's elements
  DType sum_type = DType::f32;  ///< of a tile's sums: i32 for panels of i8
  int64_t rows, cols;           ///< of the tile
  int64_t depth_step;           ///< the depth of a panel is a multiple of it
  /// Panels of i8 open with the sum over the depth of each of their rows (or columns), as i32: so many elements.
  int64_t depth_lead = 0;
  // Blocks that fit the caches together: [row_block, depth_block] of A and [depth_block, col_block] of B in L2.
  int64_t row_block, col_block, depth_block;
  int64_t region_rows;  ///< a block of B is packed once for so many rows at most

  /// Panels of x[count, depth], or with `depth_major` of x[depth, count]: count / rows of them, rounded up, each of
  /// rows x padded_depth(depth) elements. Beyond the depth stand zeros, beyond the count anything: it reaches only
  /// those parts of a tile that nobody reads. x is f32 or bf16 where the panels are f32,
  /// else of their type.
  void (*pack_rows)(const Tensor& x, bool depth_major, void* panels);
  /// The same with `cols` for B's columns.
  void (*pack_cols)(const Tensor& x, bool depth_major, void* panels);
  /// target[rows, cols] = start[rows, cols] + a b; start (of sum_type) may be null: zeros. `depth` is padded. A target
  /// of bf16 only from sums in f32.
  void (*multiply)(int64_t depth, const void* a, const void* b, const void* start, int64_t start_stride,
                   const TileTarget& target);
  /// Around a thread's calls of multiply: what the processor must be told; may be null.
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;

  int64_t padded_depth(int64_t depth) const { return depth_lead + (depth + depth_step - 1) / depth_step * depth_step; }
};

/// fp32 fused multiply-add on AVX-512; bf16 operands are widened when they are packed (their products are exact). Null
/// where the build is for another processor family.
const TileKernel* fma_tile_kernel();
/// bf16 on AMX; null where there is none.
const TileKernel* amx_tile_kernel();
/// i8 with exact sums in i32 on AVX-512 VNNI; null where there is none.
const TileKernel* vnni_tile_kernel();

}  // namespace nibble
