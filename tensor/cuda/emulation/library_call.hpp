// A product as cuBLASLt's double is asked for it: column-major matrices, and what the library's manual says of them.
//
// Not for: the library's functions (cublaslt.cpp).
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>

#include "tensor/cuda/library_product.hpp"
#include "tensor/dtype.hpp"

namespace nibble::cuda::emulation {

struct Matrix {
  cudaDataType type;
  int64_t rows, cols, stride;
};

struct Description {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N, pointers = CUBLASLT_POINTER_MODE_HOST;
  int32_t a_scale_mode = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, b_scale_mode = a_scale_mode;
  const void *a_scale = nullptr, *b_scale = nullptr;
};

constexpr int64_t bits_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_4F_E2M1:
      return 4;
    case CUDA_R_8I:
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2:
      return 8;
    case CUDA_R_16BF:
      return 16;
    default:
      return 32;
  }
}

/// What kernels are for.
enum class Kind { numbers, integers, fp8, fp8_under_vectors, fp8_in_blocks, fp4, none };

/// D = alpha op(A) op(B) + beta C as it was described.
struct Call {
  Description how;
  Matrix a, b, c, d;

  bool integers() const { return a.type == CUDA_R_8I; }
  bool transposes_a() const { return how.transpose_a == CUBLAS_OP_T; }
  bool transposes_b() const { return how.transpose_b == CUBLAS_OP_T; }
  int64_t k() const { return transposes_a() ? a.rows : a.cols; }
  /// Elements of the reduction axis under one scale; 0: blocks have none.
  int64_t block() const {
    return how.a_scale_mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0   ? 32
           : how.a_scale_mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3 ? 16
                                                                          : 0;
  }

  /// Whether each row of A and each column of B has a scale.
  bool vectors() const { return how.a_scale_mode == outer_vector_mode && how.b_scale_mode == outer_vector_mode; }

  /// On a device of this architecture; `none` if the library has no kernels for it.
  Kind kind(int architecture) const;
  cublasStatus_t status(int architecture) const;
};

struct Arguments {
  const std::byte *a, *b, *c;
  std::byte* d;
  float alpha, beta;
};

/// D of a call that has a kind: over the depth in `parts` that are summed in the workspace, if these are several. Under
/// vectors of scales ((sum * alpha) * B's) * A's + beta * C, each operation rounded in f32, as the host scales.
/// Throws Error{internal} when what the host multiplied is not what the definition says, or tiles of scales do not end
/// in zeros.
void multiply(const Call& call, const Arguments& arguments, uint32_t parts, float* workspace);

}  // namespace nibble::cuda::emulation
