// A product as cuBLASLt's double is asked for it: column-major matrices, and what the library's manual says of them.
//
// Not for: the library's functions (cublaslt.cpp).
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.hpp"

namespace nibble::cuda::emulation {

struct Matrix {
  cudaDataType type;
  int64_t rows, cols, stride;
};

struct Description {
  cublasComputeType_t compute;
  cudaDataType scale;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N, pointers = CUBLASLT_POINTER_MODE_HOST;
};

inline int64_t bytes_of(cudaDataType type) { return type == CUDA_R_8I ? 1 : type == CUDA_R_16BF ? 2 : 4; }

/// D = alpha op(A) op(B) + beta C as it was described.
struct Call {
  Description how;
  Matrix a, b, c, d;

  bool codes() const { return a.type == CUDA_R_8I; }
  bool transposes_a() const { return how.transpose_a == CUBLAS_OP_T; }
  bool transposes_b() const { return how.transpose_b == CUBLAS_OP_T; }
  int64_t k() const { return transposes_a() ? a.rows : a.cols; }

  cublasStatus_t status() const {
    for (const Matrix& x : {a, b, c, d})
      if (x.rows < 1 || x.cols < 1 || x.stride < x.rows) return CUBLAS_STATUS_INVALID_VALUE;
    const bool fits = (transposes_a() ? a.cols : a.rows) == d.rows && (transposes_b() ? b.rows : b.cols) == d.cols &&
                      k() == (transposes_b() ? b.cols : b.rows) && c.rows == d.rows && c.cols == d.cols;
    if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
    if (a.type != b.type || c.type != d.type) return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool numbers = how.compute == CUBLAS_COMPUTE_32F && how.scale == CUDA_R_32F &&
                         ((a.type == CUDA_R_32F && d.type == CUDA_R_32F) ||
                          (a.type == CUDA_R_16BF && (d.type == CUDA_R_32F || d.type == CUDA_R_16BF)));
    const bool whole = how.compute == CUBLAS_COMPUTE_32I && how.scale == CUDA_R_32I && codes() && d.type == CUDA_R_32I;
    const bool good_codes = transposes_a() && !transposes_b() && d.rows % 4 == 0 && k() % 4 == 0 && a.stride % 4 == 0 &&
                            b.stride % 4 == 0 && c.stride % 4 == 0 && d.stride % 4 == 0;
    return numbers || (whole && good_codes) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
};

struct Arguments {
  const std::byte *a, *b, *c;
  std::byte* d;
  float alpha, beta;
};

/// D of a call whose status is good: over the depth in `parts` that are summed in the workspace, if these are several.
/// Throws Error{internal} when what the host multiplied is not what the definition says.
void multiply(const Call& call, const Arguments& arguments, uint32_t parts, float* workspace);

}  // namespace nibble::cuda::emulation
