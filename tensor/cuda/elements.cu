#include <cassert>

#include "tensor/cuda/elements.hpp"
#include "tensor/cuda/kernels.hpp"

namespace nibble::cuda {
namespace {

struct Fill {
  Rows<float> to;
  float value;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group group;
    for (float& element : group.values) element = value;
    to.store(row, col, count, group);
  }
};

template <class From, class To>
struct Convert {
  Rows<From> from;
  Rows<To> to;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    to.store(row, col, count, from.load(row, col, count));
  }
};

struct Add {
  Rows<float> from, into;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    const Group addend = from.load(row, col, count);
    Group sum = into.load(row, col, count);
    for (int j = 0; j < group_elements; ++j) sum[j] += addend[j];
    into.store(row, col, count, sum);
  }
};

template <class T>
struct Middle {
  Rows<T> a, b, into;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    const Group left = a.load(row, col, count), right = b.load(row, col, count);
    Group middle;
    for (int j = 0; j < group_elements; ++j) middle[j] = (left[j] + right[j]) * 0.5f;
    into.store(row, col, count, middle);
  }
};

}  // namespace

void fill(Stream& stream, const Tensor& x, float value) {
  for_each_group(stream, x.rows, x.cols, Fill{Rows<float>(x), value});
}

void convert(Stream& stream, const Tensor& from, const Tensor& to) {
  with_float_type(from.dtype, [&](auto in) {
    with_float_type(to.dtype, [&](auto out) {
      using From = decltype(in);
      using To = decltype(out);
      for_each_group(stream, to.rows, to.cols, Convert<From, To>{Rows<From>(from), Rows<To>(to)});
    });
  });
}

void add(Stream& stream, const Tensor& from, const Tensor& into) {
  for_each_group(stream, into.rows, into.cols, Add{Rows<float>(from), Rows<float>(into)});
}

void middle(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& into) {
  with_float_type(into.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, into.rows, into.cols, Middle<T>{Rows<T>(a), Rows<T>(b), Rows<T>(into)});
  });
}

}  // namespace nibble::cuda
