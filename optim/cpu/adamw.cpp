#include "optim/cpu/blocks.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;

template <class T>
inline void adamw_block(const OptimizedParameter& parameter, const AdamMoments& moments, const TensorBlock& block,
                        const AdamWFactors& factors) {
  const float decay = parameter.decay ? factors.decay : 1.0f;
  for_each_row_part<T>(parameter, block, [&](int64_t first, int64_t part, T* working) {
    float* const master = parameter.master.as<float>() + first;
    const float* const gradient = parameter.gradient.as<float>() + first;
    float* const first_moment = moments.first.as<float>() + first;
    float* const second_moment = moments.second.as<float>() + first;
    simd::for_each_group(part, [&](int64_t i, int64_t count) {
      const f32x g = simd::load_n(gradient + i, count) * factors.gradient_scale;
      f32x w = simd::load_n(master + i, count);
      f32x m = simd::load_n(first_moment + i, count);
      m = m + factors.one_minus_beta1 * (g - m);
      const f32x v = simd::load_n(second_moment + i, count) * factors.beta2 + factors.one_minus_beta2 * g * g;
      const f32x update = factors.step_size * m / (simd::sqrt(v) / factors.sqrt_bias_correction2 + factors.epsilon);
      w = decayed(w, update, decay, parameter.cautious) - update;
      simd::store_n(first_moment + i, m, count);
      simd::store_n(second_moment + i, v, count);
      simd::store_n(master + i, w, count);
      simd::store_n(working + i, w, count);
    });
  });
}

template <class T>
inline void round_block(const OptimizedParameter& parameter, const TensorBlock& block) {
  for_each_row_part<T>(parameter, block, [&](int64_t first, int64_t part, T* working) {
    const float* const master = parameter.master.as<float>() + first;
    simd::for_each_group(
        part, [&](int64_t i, int64_t count) { simd::store_n(working + i, simd::load_n(master + i, count), count); });
  });
}

}  // namespace

void adamw_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const AdamMoments> moments,
                  std::span<const TensorBlock> blocks, const AdamWFactors& factors) {
  double bytes = 0;
  for (const OptimizedParameter& parameter : parameters)  // reads four, writes four
    bytes +=
        static_cast<double>(7 * parameter.master.bytes() + parameter.master.size() * size_of(parameter.working.dtype));
  const KernelTimer timer(stream, "adamw", bytes);
  for_each_update(stream, parameters, blocks, factors.decay,
                  [&]<class T>(T, const OptimizedParameter& parameter, const TensorBlock& block) {
                    adamw_block<T>(parameter, moments[block.tensor], block, factors);
                  });
}

void adam_direction(Stream& stream, const Tensor& gradient, const Tensor& first, const Tensor& second,
                    const Tensor& direction, const AdamWFactors& factors) {
  const KernelTimer timer(stream, "adam_direction", {gradient, first, second, second, direction});
  parallel_for(stream, gradient.size(), block_elements, [&](int64_t begin, int64_t end) {
    simd::for_each_group(end - begin, [&](int64_t j, int64_t count) {
      const int64_t i = begin + j;
      const f32x g = simd::load_n(gradient.as<float>() + i, count), m = simd::load_n(first.as<float>() + i, count);
      const f32x v = simd::load_n(second.as<float>() + i, count) * factors.beta2 + factors.one_minus_beta2 * g * g;
      simd::store_n(second.as<float>() + i, v, count);
      simd::store_n(direction.as<float>() + i,
                    factors.step_size * m / (simd::sqrt(v) / factors.sqrt_bias_correction2 + factors.epsilon), count);
    });
  });
}

void round_masters(Stream& stream, std::span<const OptimizedParameter> parameters,
                   std::span<const TensorBlock> blocks) {
  double bytes = 0;
  for (const OptimizedParameter& parameter : parameters)
    bytes += static_cast<double>(parameter.master.bytes() + parameter.master.size() * size_of(parameter.working.dtype));
  const KernelTimer timer(stream, "round_masters", bytes);
  for_each_block(stream, parameters, blocks,
                 []<class T>(T, const OptimizedParameter& parameter, const TensorBlock& block) {
                   round_block<T>(parameter, block);
                 });
}

}  // namespace nibble
