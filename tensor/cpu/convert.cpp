#include "tensor/convert.hpp"

#include <cassert>
#include <cstring>

#include "tensor/cuda/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

/// Row kernels work on about this many elements at a time, so that short rows do not make short tasks.
int64_t rows_per_task(int64_t cols) { return std::max<int64_t>(1, 4096 / std::max<int64_t>(1, cols)); }

template <class From, class To>
void convert_rows(Stream& stream, const Tensor& from, const Tensor& to) {
  parallel_for(stream, from.rows, rows_per_task(from.cols), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const From* source = from.row<From>(i);
      To* target = to.row<To>(i);
      simd::for_each_group(from.cols, [&](int64_t j, int64_t count) {
        simd::store_n(target + j, simd::load_n(source + j, count), count);
      });
    }
  });
}

}  // namespace

void convert(Stream& stream, const Tensor& from, const Tensor& to) {
  const KernelTimer timer(stream, "convert", {from, to});
  assert(from.rows == to.rows && from.cols == to.cols);
  if (stream.on_device()) return cuda::convert(stream, from, to);
  const bool narrow_in = from.dtype == DType::bf16, narrow_out = to.dtype == DType::bf16;
  if (narrow_in && narrow_out) return convert_rows<bf16, bf16>(stream, from, to);
  if (narrow_in) return convert_rows<bf16, float>(stream, from, to);
  if (narrow_out) return convert_rows<float, bf16>(stream, from, to);
  convert_rows<float, float>(stream, from, to);
}

void copy(Stream& stream, const Tensor& from, const Tensor& to) {
  const KernelTimer timer(stream, "copy", {from, to});
  assert(from.dtype == to.dtype && from.rows == to.rows && from.cols == to.cols);
  const size_t unit = size_of(from.dtype), bytes = static_cast<size_t>(from.cols) * unit;
  const size_t from_stride = static_cast<size_t>(from.stride) * unit, to_stride = static_cast<size_t>(to.stride) * unit;
  const auto rows = static_cast<size_t>(from.rows);
  if (stream.on_device()) return stream.queue().copy(to.data, to_stride, from.data, from_stride, bytes, rows);
  parallel_for(stream, from.rows, rows_per_task(from.cols), [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      std::memcpy(static_cast<std::byte*>(to.data) + i * to_stride,
                  static_cast<const std::byte*>(from.data) + i * from_stride, bytes);
  });
}

void add(Stream& stream, const Tensor& from, const Tensor& into) {
  const KernelTimer timer(stream, "add", {from, into, into});
  assert(from.rows == into.rows && from.cols == into.cols);
  if (stream.on_device()) return cuda::add(stream, from, into);
  parallel_for(stream, from.rows, rows_per_task(from.cols), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* source = from.row<float>(i);
      float* target = into.row<float>(i);
      simd::for_each_group(from.cols, [&](int64_t j, int64_t count) {
        simd::store_n(target + j, simd::load_n(target + j, count) + simd::load_n(source + j, count), count);
      });
    }
  });
}

namespace {
template <class T>
void middle_of(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& into) {
  parallel_for(stream, a.rows, rows_per_task(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *left = a.row<T>(i), *right = b.row<T>(i);
      simd::for_each_group(a.cols, [&](int64_t j, int64_t count) {
        const simd::f32x sum = simd::load_n(left + j, count) + simd::load_n(right + j, count);
        simd::store_n(into.row<T>(i) + j, sum * 0.5f, count);
      });
    }
  });
}
}  // namespace

void middle(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& into) {
  const KernelTimer timer(stream, "middle", {a, b, into});
  assert(a.dtype == b.dtype && a.dtype == into.dtype && a.rows == into.rows && a.cols == into.cols);
  if (stream.on_device()) return cuda::middle(stream, a, b, into);
  if (a.dtype == DType::bf16) middle_of<bf16>(stream, a, b, into);
  else middle_of<float>(stream, a, b, into);
}

}  // namespace nibble
