#include "optim/cpu/blocks.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;

template <class T>
inline void ademamix_block(const OptimizedParameter& parameter, const MixedMoments& moments, const TensorBlock& block,
                           const AdEMAMixFactors& factors) {
  const AdamWFactors& adamw = factors.adamw;
  const float decay = parameter.decay ? adamw.decay : 1.0f;
  for_each_row_part<T>(parameter, block, [&](int64_t first, int64_t part, T* working) {
    float* const master = parameter.master.as<float>() + first;
    const float* const gradient = parameter.gradient.as<float>() + first;
    float* const first_moment = moments.first.as<float>() + first;
    float* const slow_moment = moments.slow.as<float>() + first;
    float* const second_moment = moments.second.as<float>() + first;
    simd::for_each_group(part, [&](int64_t i, int64_t count) {
      const f32x g = simd::load_n(gradient + i, count) * adamw.gradient_scale;
      f32x w = simd::load_n(master + i, count);
      f32x m = simd::load_n(first_moment + i, count), slow = simd::load_n(slow_moment + i, count);
      m = m + adamw.one_minus_beta1 * (g - m);
      slow = slow + factors.one_minus_beta3 * (g - slow);
      const f32x v = simd::load_n(second_moment + i, count) * adamw.beta2 + adamw.one_minus_beta2 * g * g;
      const f32x update = (adamw.step_size * m + factors.slow_size * slow) /
                          (simd::sqrt(v) / adamw.sqrt_bias_correction2 + adamw.epsilon);
      w = decayed(w, update, decay, parameter.cautious) - update;
      simd::store_n(first_moment + i, m, count);
      simd::store_n(slow_moment + i, slow, count);
      simd::store_n(second_moment + i, v, count);
      simd::store_n(master + i, w, count);
      simd::store_n(working + i, w, count);
    });
  });
}

}  // namespace

void ademamix_update(Stream& stream, std::span<const OptimizedParameter> parameters,
                     std::span<const MixedMoments> moments, std::span<const TensorBlock> blocks,
                     const AdEMAMixFactors& factors) {
  double bytes = 0;
  for (const OptimizedParameter& parameter : parameters)  // reads five, writes five
    bytes +=
        static_cast<double>(9 * parameter.master.bytes() + parameter.master.size() * size_of(parameter.working.dtype));
  const KernelTimer timer(stream, "ademamix", bytes);
  for_each_update(stream, parameters, blocks, factors.adamw.decay,
                  [&]<class T>(T, const OptimizedParameter& parameter, const TensorBlock& block) {
                    ademamix_block<T>(parameter, moments[block.tensor], block, factors);
                  });
}

}  // namespace nibble
