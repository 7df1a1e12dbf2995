// Matrices divided by norms that the host never sees: it would wait for each of them.
#include <cmath>

#include "optim/cuda/kernels.hpp"
#include "optim/cuda/norms.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/staging.hpp"

namespace nibble::cuda {
namespace {

/// term(i) for i in [0, count), added in order by one thread, which reads ahead.
template <class Term>
__device__ double sum_in_order(int64_t count, Term&& term) {
  constexpr int ahead = 8;
  double sum = 0;
  int64_t i = 0;
  for (; i + ahead <= count; i += ahead) {
    double terms[ahead];
    for (int j = 0; j < ahead; ++j) terms[j] = term(i + j);
    for (int j = 0; j < ahead; ++j) sum += terms[j];
  }
  for (; i < count; ++i) sum += term(i);
  return sum;
}

__global__ void divide_by_norm(const double* squares, int64_t blocks, NormDivisor divisor, float* factor) {
  const double norm = std::sqrt(sum_in_order(blocks, [&](int64_t i) { return squares[i]; }));
  *factor = static_cast<float>(1 / divisor(norm));
}

__global__ void update_rows(const double* squares, int64_t rows, int64_t cols, double beta2, float* moments,
                            double* factors) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const double mean = squares[i] / static_cast<double>(cols);
  moments[i] = static_cast<float>(beta2 * static_cast<double>(moments[i]) + (1 - beta2) * mean);
  factors[i] = 1 / (std::sqrt(static_cast<double>(moments[i])) + 1e-8);
}

/// 0: the matrix is zeros.
__global__ void keep_norm(const double* squares, const double* factors, int64_t rows, double* kept) {
  const double before = sum_in_order(rows, [&](int64_t i) { return squares[i]; });
  const double after = sum_in_order(rows, [&](int64_t i) { return squares[i] * factors[i] * factors[i]; });
  *kept = after == 0 ? 0 : std::sqrt(before / after);
}

template <class T>
struct ScaleNormalRows {
  Rows<T> matrix;
  const double *factors, *kept;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    if (*kept == 0) return;
    const auto factor = static_cast<float>(factors[row] * *kept);
    Group group = matrix.load(row, col, count);
    for (float& element : group.values) element *= factor;
    matrix.store(row, col, count, group);
  }
};

struct AddToDiagonal {
  Rows<float> x;
  float value;

  __device__ void operator()(int64_t, int64_t first, int count) const {
    for (int64_t i = first; i < first + count; ++i) x.row(i)[i] += value;
  }
};

}  // namespace

void normalize_into(Stream& stream, const Tensor& from, const NormDivisor& divisor, bool transpose, const Tensor& to) {
  const std::vector<TensorBlock> blocks = tensor_blocks({&from, 1});
  double* const squares = stream.staging().take<double>(blocks.size() + 1).device;
  auto* const factor = reinterpret_cast<float*>(squares + blocks.size());
  queue_square_sums(stream, {&from, 1}, blocks, squares);
  launch(stream.queue(), {}, {}, 0, divide_by_norm, squares, std::ssize(blocks), divisor, factor);
  scale_into(stream, from, factor, transpose, to);
}

void normalize_rows(Stream& stream, const Tensor& matrix, const Tensor& moments, double beta2) {
  if (matrix.size() == 0) return;
  const int64_t rows = matrix.rows;
  double* const squares = stream.staging().take<double>(static_cast<size_t>(2 * rows + 1)).device;
  double *const factors = squares + rows, *const kept = factors + rows;
  queue_square_sums(stream, {&matrix, 1}, row_blocks(matrix), squares);
  constexpr unsigned threads = 256;
  launch(stream.queue(), {static_cast<unsigned>((rows + threads - 1) / threads)}, {threads}, 0, update_rows, squares,
         rows, matrix.cols, beta2, moments.on_device<float>(), factors);
  launch(stream.queue(), {}, {}, 0, keep_norm, squares, factors, rows, kept);
  with_float_type(matrix.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, rows, matrix.cols, ScaleNormalRows<T>{Rows<T>(matrix), factors, kept});
  });
}

void add_to_diagonal(Stream& stream, const Tensor& x, float value) {
  for_each_group(stream, 1, x.rows, AddToDiagonal{Rows<float>(x), value});
}

}  // namespace nibble::cuda
