#include "quant/learned_step.hpp"

#include <cmath>
#include <limits>

#include "quant/arithmetic.hpp"
#include "quant/cuda/kernels.hpp"
#include "quant/cuda/tile.hpp"
#include "tensor/cuda/stream_memory.hpp"

namespace nibble::cuda {
namespace {

/// Sums that the host keeps beside each other in a row: neighbours go to one after the other.
constexpr unsigned lanes = 16, threads = 256;

/// A row's sum: each lane's in double, then these in their order.
template <class Term>
__global__ void sum_rows(int64_t rows, int64_t cols, Term term, double* of_rows) {
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / lanes) + threadIdx.x / lanes;
  double of_lane_alone = 0;
  if (row < rows)
    for (int64_t j = threadIdx.x % lanes; j < cols; j += lanes) of_lane_alone += term(row, j);
  double sum = 0;
  for (unsigned i = 0; i < lanes; ++i) sum += of_lane(of_lane_alone, lane() / lanes * lanes + i);
  if (row < rows && threadIdx.x % lanes == 0) of_rows[row] = sum;
}

/// Of all rows, one after the other; `result` makes of it what is asked for.
template <class Result>
__global__ void sum_of_rows(int64_t rows, const double* of_rows, Result result, float* to) {
  __shared__ double shared[threads];
  double sum = 0;
  for (int64_t first = 0; first < rows; first += threads) {
    __syncthreads();
    if (first + threadIdx.x < rows) shared[threadIdx.x] = of_rows[first + threadIdx.x];
    __syncthreads();
    if (threadIdx.x != 0) continue;
    for (int64_t i = 0; i < threads && first + i < rows; ++i) sum += shared[i];
  }
  if (threadIdx.x == 0) *to = result(sum);
}

template <class Term, class Result>
Scalar sum_over(Stream& stream, const Tensor& x, const Term& term, const Result& result) {
  auto* const of_rows = stream.memory().working<double>(StreamMemory::sums, static_cast<size_t>(x.rows));
  constexpr int64_t rows_at_once = threads / lanes;
  launch(stream.queue(), {static_cast<unsigned>((x.rows + rows_at_once - 1) / rows_at_once)}, {threads}, 0,
         sum_rows<Term>, x.rows, x.cols, term, of_rows);
  float* const to = stream.memory().number();
  launch(stream.queue(), {1}, {threads}, 0, sum_of_rows<Result>, x.rows, of_rows, result, to);
  return Scalar::at(to);
}

template <class T>
struct Magnitude {
  Rows<T> x;

  __device__ float operator()(int64_t i, int64_t j) const { return magnitude(static_cast<float>(x.row(i)[j])); }
};

struct LogStep {
  double size;
  float max;

  __device__ float operator()(double sum) const {
    const double step = 2 * sum / size / sqrt(double{max}), least = std::numeric_limits<float>::min();
    return static_cast<float>(log(step < least ? least : step));
  }
};

template <class T>
struct GradientTerm {
  Rows<T> x;
  Rows<float> gradient;
  ElementFormat format;
  Scalar step;
  bool lsq;

  __device__ float operator()(int64_t i, int64_t j) const {
    const float y = static_cast<float>(x.row(i)[j]) * (1 / step.read()), q = round_nearest(y, format);
    const float within = lsq ? q - y : 0.0f;
    return (magnitude(y) < format.max ? within : q) * gradient.row(i)[j];
  }
};

struct Gradient {
  double share;
  Scalar step;

  __device__ float operator()(double sum) const { return static_cast<float>(step.read() * share * sum); }
};

__global__ void exponential(Scalar log_step, float* to) { *to = static_cast<float>(exp(double{log_step.read()})); }

}  // namespace

Scalar initial_log_step(Stream& stream, const Quantizer& quantizer, const Tensor& x) {
  const LogStep result{static_cast<double>(x.size()), quantizer.element->max};
  if (x.dtype == DType::bf16) return sum_over(stream, x, Magnitude<bf16>{Rows<bf16>(x)}, result);
  return sum_over(stream, x, Magnitude<float>{Rows<float>(x)}, result);
}

Scalar step_of(Stream& stream, const Scalar& log_step) {
  float* const to = stream.memory().number();
  launch(stream.queue(), {1}, {1}, 0, exponential, log_step, to);
  return Scalar::at(to);
}

Scalar log_step_gradient(Stream& stream, const Quantizer& quantizer, const Scalar& log_step, const Tensor& x,
                         const Tensor& gradient) {
  const ElementFormat& format = *quantizer.element;
  const bool lsq = quantizer.learned == LearnedStep::lsq;
  const Scalar step = cuda::step_of(stream, log_step);
  const Gradient result{lsq ? 1 / std::sqrt(static_cast<double>(x.size()) * format.max) : 1, step};
  const Rows<float> of_gradient(gradient);
  if (x.dtype == DType::bf16)
    return sum_over(stream, x, GradientTerm<bf16>{Rows<bf16>(x), of_gradient, format, step, lsq}, result);
  return sum_over(stream, x, GradientTerm<float>{Rows<float>(x), of_gradient, format, step, lsq}, result);
}

}  // namespace nibble::cuda
