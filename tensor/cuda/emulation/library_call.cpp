#include "tensor/cuda/emulation/library_call.hpp"

#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
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

/// Sign, exponent, mantissa (OCP 8-bit Floating Point v1.0, table 1; OCP Microscaling Formats v1.0, table 5).
double floating_point(unsigned code, int exponent_bits, int mantissa_bits) {
  const unsigned mantissa = code & ((1u << mantissa_bits) - 1),
                 exponent = code >> mantissa_bits & ((1u << exponent_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1, behind_point = mantissa_bits;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, 1 - bias - behind_point)
                    : std::ldexp(mantissa + (1u << mantissa_bits), static_cast<int>(exponent) - bias - behind_point);
  return (code >> (exponent_bits + mantissa_bits) & 1u) != 0 ? -magnitude : magnitude;
}
double e4m3(unsigned code) {
  return (code & 0x7fu) == 0x7fu ? std::numeric_limits<double>::quiet_NaN() : floating_point(code, 4, 3);
}
double e5m2(unsigned code) {
  constexpr unsigned infinity = 0x7c;
  if ((code & 0x7fu) > infinity) return std::numeric_limits<double>::quiet_NaN();
  if ((code & 0x7fu) == infinity)
    return (code & 0x80u) != 0 ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  return floating_point(code, 5, 2);
}
double e8m0(unsigned code) {
  return code == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, static_cast<int>(code) - 127);
}

double element(const Matrix& x, const std::byte* data, int64_t row, int64_t col) {
  const int64_t number = col * x.stride + row;
  const std::byte* const at = data + number * bits_of(x.type) / 8;
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
    case CUDA_R_8F_E4M3:
      return e4m3(read(uint8_t{}));
    case CUDA_R_8F_E5M2:
      return e5m2(read(uint8_t{}));
    case CUDA_R_4F_E2M1:  // the even one is in the lower half (CUDA math API, __nv_fp4x2_storage_t)
      return floating_point(number % 2 == 0 ? read(uint8_t{}) & 15u : read(uint8_t{}) >> 4u, 2, 1);
    default:
      return read(float{});
  }
}

/// Scales of blocks as they lie in tiles (cuBLAS manual, "1D Block Scaling Factors Layout"): 128 outer indices by 4
/// blocks are 512 bytes, tiles follow each other along the reduction axis first.
class TiledScales {
 public:
  TiledScales(const void* data, int32_t mode, int64_t outer, int64_t blocks)
      : data_(static_cast<const uint8_t*>(data)),
        e8m0_(mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0),
        outer_(outer),
        blocks_(blocks),
        across_((blocks + 3) / 4) {}

  double at(int64_t outer, int64_t block) const {
    const uint8_t code = *address(outer, block);
    return e8m0_ ? e8m0(code) : e4m3(code & 0x7fu);
  }
  /// The manual wants zeros wherever a tile reaches beyond the matrix.
  void require_zeros_around() const {
    for (int64_t outer = 0; outer < (outer_ + 127) / 128 * 128; ++outer)
      for (int64_t block = 0; block < 4 * across_; ++block)
        if ((outer >= outer_ || block >= blocks_) && *address(outer, block) != 0)
          throw Error({.kind = ErrorKind::internal,
                       .what = "tiles of scales for cuBLASLt do not end in zeros",
                       .where = "row " + std::to_string(outer) + ", block " + std::to_string(block),
                       .seen = std::to_string(*address(outer, block))});
  }

 private:
  const uint8_t* address(int64_t outer, int64_t block) const {
    const int64_t tile = outer / 128 * across_ + block / 4, in_tile = outer % 128;
    return data_ + 512 * tile + 16 * (in_tile % 32) + 4 * (in_tile / 32) + block % 4;
  }

  const uint8_t* data_;
  bool e8m0_;
  int64_t outer_, blocks_, across_;
};

TiledScales scales_of_a(const Call& call) {
  return {call.how.a_scale, call.how.a_scale_mode, call.d.rows, call.k() / call.block()};
}
TiledScales scales_of_b(const Call& call) {
  return {call.how.b_scale, call.how.b_scale_mode, call.d.cols, call.k() / call.block()};
}

/// What one scale of a whole matrix is.
double tensor_scale(const Call& call, const void* scale) {
  return call.block() == 0 && !call.vectors() && scale ? *static_cast<const float*>(scale) : 1.0;
}
/// Of a row of A or a column of B.
float vector_scale(const Call& call, const void* scales, int64_t index) {
  return call.vectors() ? static_cast<const float*>(scales)[index] : 1.0f;
}

/// What D[i,j] must be, and how far from it rounding may take it.
struct Expected {
  int64_t i, j;
  double value, bound;
};

Expected expected_at(const Call& call, const Arguments& x, int64_t i, int64_t j) {
  double sum = 0, size = 0;
  for (int64_t l = 0; l < call.k(); ++l) {
    double product = (call.transposes_a() ? element(call.a, x.a, l, i) : element(call.a, x.a, i, l)) *
                     (call.transposes_b() ? element(call.b, x.b, j, l) : element(call.b, x.b, l, j));
    if (const int64_t block = call.block(); block > 0)
      product *= scales_of_a(call).at(i, l / block) * scales_of_b(call).at(j, l / block);
    sum += product;
    size += std::abs(product);
  }
  const double factor = x.alpha * tensor_scale(call, call.how.a_scale) * tensor_scale(call, call.how.b_scale) *
                        vector_scale(call, call.how.a_scale, i) * vector_scale(call, call.how.b_scale, j),
               addend = x.beta == 0 ? 0 : x.beta * element(call.c, x.c, i, j), value = factor * sum + addend,
               rounding = static_cast<double>(call.k() + 2) * 0x1p-23 * (std::abs(factor) * size + std::abs(addend));
  return {i, j, value, rounding + (call.d.type == CUDA_R_16BF ? std::abs(value) * 0x1p-8 : 0) + 0x1p-120};
}

/// In whole numbers, every element by the definition.
void multiply_integers(const Call& call, const Arguments& x) {
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

void put(const Tensor& d, int64_t row, int64_t col, float value) {
  if (d.dtype == DType::bf16) d.row<bf16>(row)[col] = bf16(value);
  else d.row<float>(row)[col] = value;
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
      put(d, i, j, value);
    }
}

/// The bf16 values that a transposed A's or a B's codes stand for with their blocks' scales: exactly, for they have six
/// significant bits at most.
OwnedTensor decoded(const Matrix& x, const std::byte* data, int64_t block, const TiledScales& scales) {
  if (block > 0) scales.require_zeros_around();
  OwnedTensor values(DType::bf16, x.cols, x.rows);
  for (int64_t outer = 0; outer < x.cols; ++outer)
    for (int64_t l = 0; l < x.rows; ++l) {
      const double scale = block > 0 ? scales.at(outer, l / block) : 1;
      values.view().row<bf16>(outer)[l] = bf16(static_cast<float>(element(x, data, l, outer) * scale));
    }
  return values;
}

void multiply_under_vectors(const Call& call, const Arguments& x, uint32_t parts, float* workspace) {
  const Tensor d = transpose_of(call.d, x.d);
  const OwnedTensor sums(DType::f32, d.rows, d.cols);
  Call plain = call;
  plain.c = plain.d = {CUDA_R_32F, call.d.rows, call.d.cols, sums.view().stride};
  Arguments arguments = x;
  arguments.d = static_cast<std::byte*>(sums.view().data);
  arguments.alpha = 1;
  arguments.beta = 0;
  multiply_numbers(plain, arguments, parts, workspace);
  for (int64_t i = 0; i < d.rows; ++i)
    for (int64_t j = 0; j < d.cols; ++j) {
      const float of_b = vector_scale(call, call.how.b_scale, i), of_a = vector_scale(call, call.how.a_scale, j),
                  scaled = sums.view().row<float>(i)[j] * x.alpha * of_b * of_a;
      put(d, i, j, x.beta == 0 ? scaled : scaled + x.beta * static_cast<float>(element(call.c, x.c, j, i)));
    }
}

void multiply_codes(const Call& call, const Arguments& x, uint32_t parts, float* workspace) {
  const int64_t block = call.block();
  const TiledScales none(nullptr, 0, 0, 0);
  const OwnedTensor a = decoded(call.a, x.a, block, block > 0 ? scales_of_a(call) : none),
                    b = decoded(call.b, x.b, block, block > 0 ? scales_of_b(call) : none);
  Call wide = call;
  wide.a = {CUDA_R_16BF, call.a.rows, call.a.cols, call.a.rows};
  wide.b = {CUDA_R_16BF, call.b.rows, call.b.cols, call.b.rows};
  Arguments values = x;
  values.a = static_cast<const std::byte*>(a.view().data);
  values.b = static_cast<const std::byte*>(b.view().data);
  values.alpha *= static_cast<float>(tensor_scale(call, call.how.a_scale) * tensor_scale(call, call.how.b_scale));
  if (call.vectors()) multiply_under_vectors(wide, values, parts, workspace);
  else multiply_numbers(wide, values, parts, workspace);
}

}  // namespace

Kind Call::kind(int architecture) const {
  constexpr int hopper = 90, blackwell = 100;
  const auto any_of = [](cudaDataType type, auto... types) { return ((type == types) || ...); };
  const bool f32_sums = how.compute == CUBLAS_COMPUTE_32F && how.scale == CUDA_R_32F,
             float_result = any_of(d.type, CUDA_R_32F, CUDA_R_16BF);
  if (c.type != d.type) return Kind::none;
  const bool scaled = how.a_scale || how.b_scale || how.a_scale_mode != 0 || how.b_scale_mode != 0;
  if (a.type == b.type && any_of(a.type, CUDA_R_32F, CUDA_R_16BF))
    return f32_sums && !scaled && (d.type == CUDA_R_32F || (a.type == CUDA_R_16BF && float_result)) ? Kind::numbers
                                                                                                    : Kind::none;
  if (!transposes_a() || transposes_b()) return Kind::none;  // whatever is narrower is "TN"
  if (a.type == CUDA_R_8I && b.type == CUDA_R_8I) {
    const bool fours = d.rows % 4 == 0 && k() % 4 == 0 && a.stride % 4 == 0 && b.stride % 4 == 0 && c.stride % 4 == 0 &&
                       d.stride % 4 == 0;
    return how.compute == CUBLAS_COMPUTE_32I && how.scale == CUDA_R_32I && d.type == CUDA_R_32I && !scaled && fours
               ? Kind::integers
               : Kind::none;
  }
  // "Tensor Core Usage": 16 bytes of every matrix along its columns, and from one to the next.
  for (const Matrix* const x : {&a, &b, &c, &d})
    if (x->rows * bits_of(x->type) % 128 != 0 || x->stride * bits_of(x->type) % 128 != 0) return Kind::none;
  if (!f32_sums || !float_result || d.rows % 16 != 0 || how.a_scale_mode != how.b_scale_mode) return Kind::none;
  const bool fp8 = any_of(a.type, CUDA_R_8F_E4M3, CUDA_R_8F_E5M2) && any_of(b.type, CUDA_R_8F_E4M3, CUDA_R_8F_E5M2) &&
                   (a.type == CUDA_R_8F_E4M3 || b.type == CUDA_R_8F_E4M3),
             fp4 = a.type == CUDA_R_4F_E2M1 && b.type == CUDA_R_4F_E2M1,
             whole_blocks = block() == 0 || k() % block() == 0;
  if (fp8 && how.a_scale_mode == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F && architecture >= hopper) return Kind::fp8;
  if (fp8 && vectors() && architecture == hopper) return Kind::fp8_under_vectors;
  if (architecture < blackwell || !whole_blocks) return Kind::none;
  if (fp8 && how.a_scale_mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0) return Kind::fp8_in_blocks;
  if (fp4 && how.a_scale_mode == CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3) return Kind::fp4;
  return Kind::none;
}

cublasStatus_t Call::status(int architecture) const {
  for (const Matrix& x : {a, b, c, d})
    if (x.rows < 1 || x.cols < 1 || x.stride < x.rows) return CUBLAS_STATUS_INVALID_VALUE;
  const bool fits = (transposes_a() ? a.cols : a.rows) == d.rows && (transposes_b() ? b.rows : b.cols) == d.cols &&
                    k() == (transposes_b() ? b.cols : b.rows) && c.rows == d.rows && c.cols == d.cols;
  if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
  const auto aligned = [](const void* scales) { return scales && reinterpret_cast<uintptr_t>(scales) % 16 == 0; };
  if ((block() > 0 || vectors()) && !(aligned(how.a_scale) && aligned(how.b_scale))) return CUBLAS_STATUS_INVALID_VALUE;
  return kind(architecture) == Kind::none ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

void multiply(const Call& call, const Arguments& x, uint32_t parts, float* workspace) {
  const int64_t m = call.d.rows, n = call.d.cols;
  std::vector<Expected> expected;
  for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {m - 1, n - 1}, {m / 2, n / 3}})
    expected.push_back(expected_at(call, x, i, j));
  if (call.integers()) multiply_integers(call, x);
  else if (bits_of(call.a.type) < 16) multiply_codes(call, x, parts, workspace);
  else multiply_numbers(call, x, parts, workspace);
  for (const auto& [i, j, value, bound] : expected)
    if (std::isfinite(value) && !(std::abs(element(call.d, x.d, i, j) - value) <= bound))
      throw Error({.kind = ErrorKind::internal,
                   .what = "the double of cuBLASLt multiplied wrongly",
                   .seen = std::to_string(element(call.d, x.d, i, j)),
                   .allowed = std::to_string(value)});
}

}  // namespace nibble::cuda::emulation
