#include <algorithm>

#include "optim/cpu/blocks.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/gradient_norm.hpp"
#include "optim/kernels.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

/// Rows of a range that is worth a thread: about 16 KiB.
int64_t grain_of(int64_t cols) { return std::max<int64_t>(1, block_elements / std::max<int64_t>(cols, 1)); }

template <class From, class To>
void scale_rows_into(Stream& stream, const Tensor& from, float factor, const Tensor& to) {
  parallel_for(stream, from.rows, grain_of(from.cols), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      simd::for_each_group(from.cols, [&](int64_t j, int64_t count) {
        simd::store_n(to.row<To>(i) + j, simd::load_n(from.row<From>(i) + j, count) * factor, count);
      });
  });
}

template <class From, class To>
void scale_transposed(Stream& stream, const Tensor& from, float factor, const Tensor& to) {
  constexpr int64_t line = 16;  // elements of a cache line of f32, so that each line that is read is used whole
  parallel_for(stream, to.rows, line, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += line)
      for (int64_t i = 0; i < from.rows; ++i)
        for (int64_t j = first; j < std::min(first + line, end); ++j)
          to.row<To>(j)[i] = static_cast<To>(static_cast<float>(from.row<From>(i)[j]) * factor);
  });
}

}  // namespace

void scale_into(Stream& stream, const Tensor& from, float factor, bool transpose, const Tensor& to) {
  if (stream.on_device()) return cuda::scale_into(stream, from, factor, transpose, to);
  with_type(from, [&]<class From>(From) {
    with_type(to, [&]<class To>(To) {
      if (transpose) scale_transposed<From, To>(stream, from, factor, to);
      else scale_rows_into<From, To>(stream, from, factor, to);
    });
  });
}

void normalize_into(Stream& stream, const Tensor& from, const NormDivisor& divisor, bool transpose, const Tensor& to) {
  if (stream.on_device()) return cuda::normalize_into(stream, from, divisor, transpose, to);
  const double norm = gradient_norm(gradient_square_sums(stream, {&from, 1}));
  scale_into(stream, from, static_cast<float>(1 / divisor(norm)), transpose, to);
}

void add_to_diagonal(Stream& stream, const Tensor& x, float value) {
  if (stream.on_device()) return cuda::add_to_diagonal(stream, x, value);
  for (int64_t i = 0; i < x.rows; ++i) x.row<float>(i)[i] += value;
}

void convert_and_scale(Stream& stream, const Tensor& x, const Tensor& copy, float factor) {
  if (stream.on_device()) return cuda::convert_and_scale(stream, x, copy, factor);
  with_type(copy, [&]<class T>(T) {
    parallel_for(stream, x.rows, grain_of(x.cols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        simd::for_each_group(x.cols, [&](int64_t j, int64_t count) {
          const simd::f32x value = simd::load_n(x.row<float>(i) + j, count);
          simd::store_n(copy.row<T>(i) + j, value, count);
          simd::store_n(x.row<float>(i) + j, value * factor, count);
        });
    });
  });
}

void add_scaled(Stream& stream, const Tensor& a, const Tensor& b, float factor, const Tensor& to) {
  if (stream.on_device()) return cuda::add_scaled(stream, a, b, factor, to);
  with_type(to, [&]<class T>(T) {
    const auto add = [&](int64_t row, int64_t first, int64_t last) {
      simd::for_each_group(last - first, [&](int64_t j, int64_t count) {
        const int64_t i = first + j;
        const simd::f32x sum =
            simd::load_n(a.row<float>(row) + i, count) + simd::load_n(b.row<float>(row) + i, count) * factor;
        simd::store_n(to.row<T>(row) + i, sum, count);
      });
    };
    if (a.rows == 1)
      return parallel_for(stream, a.cols, block_elements, [&](int64_t begin, int64_t end) { add(0, begin, end); });
    parallel_for(stream, a.rows, grain_of(a.cols), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) add(row, 0, a.cols);
    });
  });
}

}  // namespace nibble
