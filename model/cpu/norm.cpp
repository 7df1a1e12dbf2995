#include "model/norm.hpp"

#include <algorithm>
#include <cmath>

#include "model/cpu/dispatch.hpp"
#include "model/cuda/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::for_each_group, simd::lanes, simd::load_n, simd::splat, simd::store_n, simd::sum;

constexpr int64_t tokens_per_block = rms_norm_block_tokens;

template <class T>
float inverse_rms_of(const T* x, int64_t width, float epsilon) {
  f32x squares = splat(0);
  for_each_group(width, [&](int64_t i, int64_t count) {
    const f32x v = load_n(x + i, count);
    squares += v * v;
  });
  return 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon);
}

/// mean(g dy x) r^2
template <class T, class X>
float projection_of(const float* gain, const T* gradient, const X* x, float r, int64_t width) {
  f32x products = splat(0);
  for_each_group(width, [&](int64_t i, int64_t count) {
    products += load_n(gain + i, count) * load_n(gradient + i, count) * load_n(x + i, count);
  });
  return sum(products) / static_cast<float>(width) * r * r;
}

void sum_blocks(Stream& stream, const Tensor& block_sums, int64_t tokens, const Tensor& dgain) {
  const int64_t width = dgain.cols, blocks = rms_norm_scratch_rows(tokens);
  parallel_for(stream, width, lanes, [&](int64_t begin, int64_t end) {
    for_each_group(end - begin, [&](int64_t offset, int64_t count) {
      const int64_t i = begin + offset;
      f32x total = splat(0);
      for (int64_t b = 0; b < blocks; ++b) total += load_n(block_sums.row<float>(b) + i, count);
      store_n(dgain.as<float>() + i, total, count);
    });
  });
}

template <class T>
void forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
             const Tensor& inverse_rms) {
  const int64_t width = x.cols;
  const float* g = gain.as<float>();
  parallel_for(stream, x.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* in = x.row<float>(t);
      T* out = y.row<T>(t);
      const float r = inverse_rms_of(in, width, epsilon);
      inverse_rms.as<float>()[t] = r;
      for_each_group(width, [&](int64_t i, int64_t count) {
        store_n(out + i, load_n(in + i, count) * r * load_n(g + i, count), count);
      });
    }
  });
}

template <class T>
void backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& inverse_rms,
              const Tensor& dx, const Tensor& dx_operand, const Tensor& dgain, const Tensor& block_sums) {
  const int64_t tokens = x.rows, width = x.cols;
  const float* g = gain.as<float>();
  parallel_for(stream, tokens, tokens_per_block, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* in = x.row<float>(t);
      const T* gradient = dy.row<T>(t);
      float* residual = dx.row<float>(t);
      T* operand = dx_operand.row<T>(t);
      float* block = block_sums.row<float>(t / tokens_per_block);
      if (t % tokens_per_block == 0) std::fill_n(block, width, 0.0f);
      const float r = inverse_rms.as<float>()[t];
      const float projection = projection_of(g, gradient, in, r, width);
      for_each_group(width, [&](int64_t i, int64_t count) {
        const f32x v = load_n(in + i, count), d = load_n(gradient + i, count);
        const f32x total = load_n(residual + i, count) + r * (load_n(g + i, count) * d - v * projection);
        store_n(residual + i, total, count);
        store_n(operand + i, total, count);
        store_n(block + i, load_n(block + i, count) + d * v * r, count);
      });
    }
  });
  sum_blocks(stream, block_sums, tokens, dgain);
}

template <class T>
void heads_forward(Stream& stream, const Tensor& gain, float epsilon, const Tensor& x, const HeadNormSaved* saved) {
  const int64_t width = gain.cols, heads = x.cols / width;
  const float* g = gain.as<float>();
  parallel_for(stream, x.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (saved) std::copy_n(x.row<T>(t), x.cols, saved->input.row<T>(t));
      for (int64_t h = 0; h < heads; ++h) {
        T* head = x.row<T>(t) + h * width;
        const float r = inverse_rms_of(head, width, epsilon);
        if (saved) saved->inverse_rms.row<float>(t)[h] = r;
        for_each_group(width, [&](int64_t i, int64_t count) {
          store_n(head + i, load_n(head + i, count) * r * load_n(g + i, count), count);
        });
      }
    }
  });
}

template <class T>
void heads_backward(Stream& stream, const Tensor& gain, const HeadNormSaved& saved, const Tensor& dx,
                    const Tensor& dgain, const Tensor& block_sums) {
  const int64_t width = gain.cols, heads = dx.cols / width;
  const float* g = gain.as<float>();
  parallel_for(stream, dx.rows, tokens_per_block, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* block = block_sums.row<float>(t / tokens_per_block);
      if (t % tokens_per_block == 0) std::fill_n(block, width, 0.0f);
      for (int64_t h = 0; h < heads; ++h) {
        const T* in = saved.input.row<T>(t) + h * width;
        T* gradient = dx.row<T>(t) + h * width;
        const float r = saved.inverse_rms.row<float>(t)[h];
        const float projection = projection_of(g, gradient, in, r, width);
        for_each_group(width, [&](int64_t i, int64_t count) {
          const f32x v = load_n(in + i, count), d = load_n(gradient + i, count);
          store_n(gradient + i, r * (load_n(g + i, count) * d - v * projection), count);
          store_n(block + i, load_n(block + i, count) + d * v * r, count);
        });
      }
    }
  });
  sum_blocks(stream, block_sums, dx.rows, dgain);
}

}  // namespace

int64_t rms_norm_scratch_rows(int64_t tokens) { return (tokens + tokens_per_block - 1) / tokens_per_block; }

void rms_norm_forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                      const Tensor& inverse_rms) {
  const KernelTimer timer(stream, "rms_norm_forward", {x, y});
  if (stream.on_device()) return cuda::rms_norm_forward(stream, x, gain, epsilon, y, inverse_rms);
  with_operand_type(y.dtype, [&](auto type) { forward<decltype(type)>(stream, x, gain, epsilon, y, inverse_rms); });
}

Scalar rms_norm_with_largest(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                             const Tensor& inverse_rms) {
  if (stream.on_device()) {
    const KernelTimer timer(stream, "rms_norm_with_largest", {x, y});
    return cuda::rms_norm_with_largest(stream, x, gain, epsilon, y, inverse_rms);
  }
  rms_norm_forward(stream, x, gain, epsilon, y, inverse_rms);
  return tensor_statistic(stream, {.values = y}, {});
}

Operand rms_norm_quantize(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                          const Tensor& inverse_rms, bool keeps_y, const QuantizeArguments& arguments) {
  if (stream.on_device()) {
    const KernelTimer timer(stream, "rms_norm_quantize",
                            {x, keeps_y ? y : Tensor(), arguments.values, arguments.parts.codes, arguments.parts.scales,
                             arguments.parts.mask});
    check_length(y, arguments.how);
    return cuda::rms_norm_quantize(stream, x, gain, epsilon, y, inverse_rms, keeps_y, arguments);
  }
  rms_norm_forward(stream, x, gain, epsilon, y, inverse_rms);
  return quantize(stream, {.values = y}, arguments.how, arguments.statistic, arguments.values, arguments.scale,
                  arguments.parts);
}

void rms_norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& inverse_rms,
                       const Tensor& dx, const Tensor& dx_operand, const Tensor& dgain, const Tensor& scratch) {
  const KernelTimer timer(stream, "rms_norm_backward", {dy, x, dx, dx, dx_operand});
  if (stream.on_device())
    return cuda::rms_norm_backward(stream, dy, x, gain, inverse_rms, dx, dx_operand, dgain, scratch);
  with_operand_type(dy.dtype, [&](auto type) {
    backward<decltype(type)>(stream, dy, x, gain, inverse_rms, dx, dx_operand, dgain, scratch);
  });
}

void head_norm_forward(Stream& stream, const Tensor& gain, float epsilon, const Tensor& x, const HeadNormSaved* saved) {
  const KernelTimer timer(stream, "head_norm_forward", {x, x, saved ? saved->input : Tensor()});
  if (stream.on_device()) return cuda::head_norm_forward(stream, gain, epsilon, x, saved);
  with_operand_type(x.dtype, [&](auto type) { heads_forward<decltype(type)>(stream, gain, epsilon, x, saved); });
}

void head_norm_backward(Stream& stream, const Tensor& gain, const HeadNormSaved& saved, const Tensor& dx,
                        const Tensor& dgain, const Tensor& scratch) {
  const KernelTimer timer(stream, "head_norm_backward", {dx, dx, saved.input});
  if (stream.on_device()) return cuda::head_norm_backward(stream, gain, saved, dx, dgain, scratch);
  with_operand_type(dx.dtype,
                    [&](auto type) { heads_backward<decltype(type)>(stream, gain, saved, dx, dgain, scratch); });
}

}  // namespace nibble
