#include "optim/cpu/blocks.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {

void momentum_update(Stream& stream, const Tensor& gradient, const Tensor& momentum, const Tensor& direction,
                     const MomentumFactors& factors) {
  const KernelTimer timer(stream, "momentum", {gradient, momentum, momentum, direction});
  const float* const from = gradient.as<float>();
  float* const kept = momentum.as<float>();
  with_type(direction, [&]<class T>(T) {
    T* const to = direction.as<T>();
    parallel_for(stream, gradient.size(), block_elements, [&](int64_t begin, int64_t end) {
      simd::for_each_group(end - begin, [&](int64_t j, int64_t count) {
        const int64_t i = begin + j;
        const simd::f32x g = simd::load_n(from + i, count) * factors.gradient_scale;
        const simd::f32x m = simd::load_n(kept + i, count) * factors.momentum + g;
        simd::store_n(kept + i, m, count);
        simd::store_n(to + i, factors.nesterov ? m * factors.momentum + g : m, count);
      });
    });
  });
}

void extrapolate(Stream& stream, const Tensor& last, const Tensor& gradient, float scale, float factor) {
  const KernelTimer timer(stream, "extrapolate", {last, last, gradient, gradient});
  float *const before = last.as<float>(), *const now = gradient.as<float>();
  parallel_for(stream, gradient.size(), block_elements, [&](int64_t begin, int64_t end) {
    simd::for_each_group(end - begin, [&](int64_t j, int64_t count) {
      const int64_t i = begin + j;
      const simd::f32x g = simd::load_n(now + i, count) * scale;
      const simd::f32x ahead = g + (g - simd::load_n(before + i, count)) * factor;
      simd::store_n(before + i, g, count);
      simd::store_n(now + i, ahead, count);
    });
  });
}

void scale_rows(Stream& stream, const Tensor& matrix, std::span<const float> factors) {
  const KernelTimer timer(stream, "scale_rows", {matrix, matrix});
  with_type(matrix, [&]<class T>(T) {
    parallel_for(stream, matrix.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* const row = matrix.row<T>(i);
        const float factor = factors[static_cast<size_t>(i)];
        simd::for_each_group(matrix.cols, [&](int64_t j, int64_t count) {
          simd::store_n(row + j, simd::load_n(row + j, count) * factor, count);
        });
      }
    });
  });
}

}  // namespace nibble
