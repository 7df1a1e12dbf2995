#include "model/norm.hpp"

#include <algorithm>
#include <cmath>

#include "model/cpu/dispatch.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::for_each_group, simd::lanes, simd::load_n, simd::splat, simd::store_n, simd::sum;

/// dgain is summed within blocks of this many tokens, then over blocks in order: independent of the threads.
constexpr int64_t tokens_per_block = 32;

template <class T>
void forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
             const Tensor& inverse_rms) {
  const int64_t width = x.cols;
  const float* g = gain.as<float>();
  parallel_for(stream, x.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* in = x.row<float>(t);
      T* out = y.row<T>(t);
      f32x squares = splat(0);
      for_each_group(width, [&](int64_t i, int64_t count) {
        const f32x v = load_n(in + i, count);
        squares += v * v;
      });
      const float r = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon);
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
  const int64_t tokens = x.rows, width = x.cols, blocks = rms_norm_scratch_rows(tokens);
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
      f32x products = splat(0);
      for_each_group(width, [&](int64_t i, int64_t count) {
        products += load_n(g + i, count) * load_n(gradient + i, count) * load_n(in + i, count);
      });
      const float projection = sum(products) / static_cast<float>(width) * r * r;
      for_each_group(width, [&](int64_t i, int64_t count) {
        const f32x v = load_n(in + i, count), d = load_n(gradient + i, count);
        const f32x total = load_n(residual + i, count) + r * (load_n(g + i, count) * d - v * projection);
        store_n(residual + i, total, count);
        store_n(operand + i, total, count);
        store_n(block + i, load_n(block + i, count) + d * v * r, count);
      });
    }
  });
  parallel_for(stream, width, lanes, [&](int64_t begin, int64_t end) {
    for_each_group(end - begin, [&](int64_t offset, int64_t count) {
      const int64_t i = begin + offset;
      f32x total = splat(0);
      for (int64_t b = 0; b < blocks; ++b) total += load_n(block_sums.row<float>(b) + i, count);
      store_n(dgain.as<float>() + i, total, count);
    });
  });
}

}  // namespace

int64_t rms_norm_scratch_rows(int64_t tokens) { return (tokens + tokens_per_block - 1) / tokens_per_block; }

void rms_norm_forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                      const Tensor& inverse_rms) {
  const KernelTimer timer(stream, "rms_norm_forward", {x, y});
  with_operand_type(y.dtype, [&](auto type) { forward<decltype(type)>(stream, x, gain, epsilon, y, inverse_rms); });
}

void rms_norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& inverse_rms,
                       const Tensor& dx, const Tensor& dx_operand, const Tensor& dgain, const Tensor& scratch) {
  const KernelTimer timer(stream, "rms_norm_backward", {dy, x, dx, dx, dx_operand});
  with_operand_type(dy.dtype, [&](auto type) {
    backward<decltype(type)>(stream, dy, x, gain, inverse_rms, dx, dx_operand, dgain, scratch);
  });
}

}  // namespace nibble
