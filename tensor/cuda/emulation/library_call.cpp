#include "tensor/cuda/emulation/library_call.hpp"

#include <omp.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/gemm.hpp"

namespace nibble::cuda::emulation {
namespace {

DType dtype_of(cudaDataType type) {
  return type == CUDA_R_8I     ? DType::i8
         : type == CUDA_R_16BF ? DType::bf16
         : type == CUDA_R_32I  ? DType::i32
                               : DType::f32;
}

double element(const Matrix& x, const std::byte* data, int64_t row, int64_t col) {
  const std::byte* const at = data + (col * x.stride + row) * bytes_of(x.type);
  const auto read = [&](auto value) {
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  switch (x.type) {
    case CUDA_R_8I:
      return read(int8_t{});
    case CUDA_R_32I:
      return read(int32_t{});
    case CUDA_R_16BF:
      return static_cast<float>(read(bf16{}));
    default:
      return read(float{});
  }
}

/// What D[i,j] must be, and how far from it rounding may take it.
struct Expected {
  int64_t i, j;
  double value, bound;
};

Expected expected_at(const Call& call, const Arguments& x, int64_t i, int64_t j) {
  double sum = 0, size = 0;
  for (int64_t l = 0; l < call.k(); ++l) {
    const double product = (call.transposes_a() ? element(call.a, x.a, l, i) : element(call.a, x.a, i, l)) *
                           (call.transposes_b() ? element(call.b, x.b, j, l) : element(call.b, x.b, l, j));
    sum += product;
    size += std::abs(product);
  }
  const double addend = x.beta == 0 ? 0 : x.beta * element(call.c, x.c, i, j), value = x.alpha * sum + addend,
               rounding = static_cast<double>(call.k() + 2) * 0x1p-23 * (std::abs(x.alpha) * size + std::abs(addend));
  return {i, j, value, rounding + (call.d.type == CUDA_R_16BF ? std::abs(value) * 0x1p-8 : 0) + 0x1p-120};
}

/// In whole numbers, every element by the definition.
void multiply_codes(const Call& call, const Arguments& x) {
  for (int64_t j = 0; j < call.d.cols; ++j)
    for (int64_t i = 0; i < call.d.rows; ++i) {
      int32_t sum = 0;
      for (int64_t l = 0; l < call.k(); ++l)
        sum += static_cast<int8_t>(x.a[i * call.a.stride + l]) * static_cast<int8_t>(x.b[j * call.b.stride + l]);
      if (x.beta != 0) sum += static_cast<int32_t>(x.beta * element(call.c, x.c, i, j));
      std::memcpy(x.d + (j * call.d.stride + i) * int64_t{sizeof sum}, &sum, sizeof sum);
    }
}

/// A column-major matrix as the row-major one that its transpose is.
Tensor transpose_of(const Matrix& x, const std::byte* data) {
  return {dtype_of(x.type), const_cast<std::byte*>(data), x.cols, x.rows, x.stride};
}

/// With as many threads as whoever waits for the device has, on which a library's bits may depend.
Stream& host() {
  static std::map<int, Stream> streams;
  const int threads = omp_get_max_threads();
  return streams.try_emplace(threads, threads).first->second;
}

/// d' = op(b)' op(a)' over a part of the depth.
void multiply_part(const Call& call, const Arguments& x, int64_t first, int64_t count, const Tensor& d,
                   const Tensor& addend) {
  const auto part = [&](const Tensor& matrix, bool depth_in_rows) {
    return depth_in_rows ? matrix.slice_rows(first, count) : matrix.slice_cols(first, count);
  };
  gemm(host(), part(transpose_of(call.b, x.b), call.transposes_b()), Transpose(call.transposes_b()),
       part(transpose_of(call.a, x.a), !call.transposes_a()), Transpose(call.transposes_a()), d, addend);
}

void multiply_numbers(const Call& call, const Arguments& x, uint32_t parts, float* workspace) {
  const Tensor d = transpose_of(call.d, x.d), c = transpose_of(call.c, x.c);
  if (parts == 1 && x.alpha == 1 && (x.beta == 0 || (x.beta == 1 && c.dtype == DType::f32)))
    return multiply_part(call, x, 0, call.k(), d, x.beta == 0 ? Tensor() : c);
  const OwnedTensor own(DType::f32, d.rows, d.cols);
  const Tensor sums = parts == 1 ? own.view() : Tensor(workspace, d.rows, d.cols);
  for (uint32_t i = 0; i < parts; ++i) {
    const int64_t first = call.k() * i / parts, count = call.k() * (i + 1) / parts - first;
    const Tensor part(sums.as<float>() + i * sums.size(), d.rows, d.cols);
    multiply_part(call, x, first, count, part, {});
    for (int64_t j = 0; i > 0 && j < sums.size(); ++j) sums.as<float>()[j] += part.as<float>()[j];
  }
  for (int64_t i = 0; i < d.rows; ++i)
    for (int64_t j = 0; j < d.cols; ++j) {
      const float addend = x.beta == 0 ? 0 : x.beta * static_cast<float>(element(call.c, x.c, j, i)),
                  value = std::fma(x.alpha, sums.row<float>(i)[j], addend);
      if (d.dtype == DType::bf16) d.row<bf16>(i)[j] = bf16(value);
      else d.row<float>(i)[j] = value;
    }
}

}  // namespace

void multiply(const Call& call, const Arguments& x, uint32_t parts, float* workspace) {
  const int64_t m = call.d.rows, n = call.d.cols;
  std::vector<Expected> expected;
  for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {m - 1, n - 1}, {m / 2, n / 3}})
    expected.push_back(expected_at(call, x, i, j));
  if (call.codes()) multiply_codes(call, x);
  else multiply_numbers(call, x, parts, workspace);
  for (const auto& [i, j, value, bound] : expected)
    if (std::isfinite(value) && !(std::abs(element(call.d, x.d, i, j) - value) <= bound))
      throw Error({.kind = ErrorKind::internal,
                   .what = "the double of cuBLASLt multiplied wrongly",
                   .seen = std::to_string(element(call.d, x.d, i, j)),
                   .allowed = std::to_string(value)});
}

}  // namespace nibble::cuda::emulation
