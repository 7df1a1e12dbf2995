// A product of gemm() as cuBLASLt is asked for it, and which part of gemm() that is.
//
// The library's matrices are column-major. A row-major matrix is its own transpose there, so that c = op(a) op(b)
// becomes c' = op(b)' op(a)': b is the library's A and a its B. Not for: calling the library (cublaslt.hpp), what it
// does not do (gemm.cu).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/coded_gemm.hpp"
#include "tensor/packed_gemm.hpp"

namespace nibble::cuda {

/// Of elements of A and B.
enum class LibraryType : uint8_t { f32, bf16, i8, e4m3, e5m2, e2m1 };

/// C of D = A B + C.
enum class LibraryAddend : uint8_t { none, destination, other };

/// D[m,n] = op(A)[m,k] op(B)[k,n] + C[m,n], column-major: all that the choice of an algorithm may depend on.
struct LibraryProduct {
  LibraryType type_a{}, type_b{};
  DType result = DType::f32;  ///< i32 of i8
  BlockScales block_scales{};
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0;
  int64_t stride_a = 0, stride_b = 0, stride_c = 0, stride_d = 0;  ///< elements from one column to the next
  /// Bytes that addresses are multiples of: a power of two, library_alignment at most.
  uint32_t alignment_a = 0, alignment_b = 0, alignment_c = 0, alignment_d = 0;
  LibraryAddend addend = LibraryAddend::none;
  bool factor_on_device = false;
  bool vector_scales = false;  ///< f32 of D's rows, m, and of its columns, n

  /// Elements of FP8 or FP4.
  bool coded() const { return type_a >= LibraryType::e4m3; }
  bool operator==(const LibraryProduct&) const = default;
};

/// The longest load of a thread and what TMA asks of an address (CUDA programming guide): no algorithm needs more.
inline constexpr uint32_t library_alignment = 16;

struct LibraryProductHash {
  size_t operator()(const LibraryProduct& product) const;
};

/// Of a product whose scaling is a factor at most. Of an addend that is not there, stride and alignment are D's.
LibraryProduct library_product(const Product& product);
/// Of one whose a and transposed b are such codes, in u8; its scales of rows and columns, if it has any, are the
/// library's part.
LibraryProduct library_product(const Product& product, const CodePair& pair);

/// As gemm() sees it, "512x2048x8192 NT bf16>f32, ...": no two products have the same.
std::string name(const LibraryProduct& product);
/// Whether that name is one of a product under scales of rows and columns.
bool names_vector_scales(std::string_view name);

/// Whether the library does all of it with each operation rounded as gemm() says. Otherwise it sums, and a kernel
/// finishes: scales of rows and columns, codes, addends in f32 of a c in bf16, and a factor beside an addend, which the
/// library would add before it rounds what it multiplied.
bool library_finishes(const Product& product);

/// What the library's manual calls outer vector scaling: alpha times the scale of A's row, that of B's column and the
/// sum, plus beta times C (section of that name; in which order it rounds is not said). Header and library have it
/// since CUDA 12.9; of GPUs compute capability 9.0 alone (table "Scaling Mode Support Overview").
inline constexpr int32_t outer_vector_mode = 3;         ///< CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F
inline constexpr size_t outer_vector_version = 120900;  ///< as CUBLAS_VERSION is made
inline constexpr int outer_vector_architecture = 90;

/// Whether it may be asked for a product that it does not finish otherwise: FP8 under scales of rows and of columns,
/// both of which begin on 16 bytes (as its manual asks of others). An addend is f32, as its result then is, and the
/// factor beside it the host's.
bool library_may_scale(const Product& product, const CodePair& pair);

/// An operand in i8 as the library takes it: rows along the depth.
struct CodeRows {
  int64_t rows = 0, depth = 0, stride = 0;
  bool copied = false;  ///< it is not so where it lies

  bool operator==(const CodeRows&) const = default;
};

/// What cuBLAS asks of i8 (its manual, cublasLtMatmul, "IMMA kernels", regular data ordering): A transposed and B not;
/// addresses, leading dimensions, m and k multiples of 4.
inline constexpr int64_t code_multiple = 4;

/// Of x, [count, depth] or, with `depth_first`, [depth, count]. `pads_rows`: it is b, whose rows are the library's m.
CodeRows code_rows(const Tensor& x, bool depth_first, bool pads_rows);

constexpr int64_t multiple_of(int64_t unit, int64_t count) { return (count + unit - 1) / unit * unit; }

}  // namespace nibble::cuda
