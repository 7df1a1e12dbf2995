#include "optim/cuda/kernels.hpp"
#include "optim/cuda/norms.hpp"
#include "tensor/cuda/elements.hpp"

namespace nibble::cuda {
namespace {

/// Known to the host or to the device alone.
struct Factor {
  float known;
  const float* computed;

  __device__ float value() const { return computed ? *computed : known; }
};

template <class From, class To>
struct ScaleInto {
  Rows<From> from;
  Factor factor;
  Rows<To> to;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group group = from.load(row, col, count);
    for (float& element : group.values) element *= factor.value();
    to.store(row, col, count, group);
  }
};

template <class T>
struct ConvertAndScale {
  Rows<float> x;
  Rows<T> copy;
  float factor;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group group = x.load(row, col, count);
    copy.store(row, col, count, group);
    for (float& element : group.values) element *= factor;
    x.store(row, col, count, group);
  }
};

template <class T>
struct AddScaled {
  Rows<float> a, b;
  float factor;
  Rows<T> to;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group sum = a.load(row, col, count);
    const Group addend = b.load(row, col, count);
    for (int j = 0; j < group_elements; ++j) sum[j] += addend[j] * factor;
    to.store(row, col, count, sum);
  }
};

/// Sides of a square that a thread block transposes; rows in its memory are one longer, so that no two elements of a
/// column are in one bank.
constexpr unsigned square = 32, square_rows = 8;

constexpr unsigned squares_along(int64_t side) { return static_cast<unsigned>((side + square - 1) / square); }

template <class From, class To>
__global__ void __launch_bounds__(square* square_rows)
    scale_transposed(Rows<From> from, int64_t rows, int64_t cols, Factor factor, Rows<To> to) {
  float* const shared = shared_memory<float>();
  const float by = factor.value();
  const unsigned across = squares_along(cols);
  const int64_t first_row = int64_t{blockIdx.x / across} * square, first_col = int64_t{blockIdx.x % across} * square;
  for (unsigned i = threadIdx.y; i < square; i += square_rows)
    if (first_row + i < rows && first_col + threadIdx.x < cols)
      shared[i * (square + 1) + threadIdx.x] =
          static_cast<float>(from.row(first_row + i)[first_col + threadIdx.x]) * by;
  __syncthreads();
  for (unsigned i = threadIdx.y; i < square; i += square_rows)
    if (first_col + i < cols && first_row + threadIdx.x < rows)
      to.row(first_col + i)[first_row + threadIdx.x] = static_cast<To>(shared[threadIdx.x * (square + 1) + i]);
}

void scale(Stream& stream, const Tensor& from, const Factor& factor, bool transpose, const Tensor& to) {
  if (from.size() == 0) return;
  with_float_type(from.dtype, [&](auto in) {
    with_float_type(to.dtype, [&](auto out) {
      using From = decltype(in);
      using To = decltype(out);
      const Rows<From> source(from);
      const Rows<To> target(to);
      if (transpose)
        launch(stream.queue(), {squares_along(from.rows) * squares_along(from.cols)}, {square, square_rows},
               square * (square + 1) * sizeof(float), scale_transposed<From, To>, source, from.rows, from.cols, factor,
               target);
      else for_each_group(stream, from.rows, from.cols, ScaleInto<From, To>{source, factor, target});
    });
  });
}

}  // namespace

void scale_into(Stream& stream, const Tensor& from, float factor, bool transpose, const Tensor& to) {
  scale(stream, from, {factor, nullptr}, transpose, to);
}

void scale_into(Stream& stream, const Tensor& from, const float* factor, bool transpose, const Tensor& to) {
  scale(stream, from, {0, factor}, transpose, to);
}

void convert_and_scale(Stream& stream, const Tensor& x, const Tensor& copy, float factor) {
  with_float_type(copy.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, x.rows, x.cols, ConvertAndScale<T>{Rows<float>(x), Rows<T>(copy), factor});
  });
}

void add_scaled(Stream& stream, const Tensor& a, const Tensor& b, float factor, const Tensor& to) {
  with_float_type(to.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, a.rows, a.cols, AddScaled<T>{Rows<float>(a), Rows<float>(b), factor, Rows<T>(to)});
  });
}

}  // namespace nibble::cuda
