#include "optim/cpu/blocks.hpp"
#include "optim/cpu/moment_tile.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;

inline void adamw_block(const OptimizedParameter& parameter, const AdamMoments& moments, const TensorBlock& block,
                        const AdamWFactors& factors, const MomentPacking& packing) {
  const float decay = parameter.decay ? factors.decay : 1.0f;
  update_in_tiles(parameter, block, moments.first.tile(), [&](int64_t first, int64_t count) {
    float* const master = parameter.master.as<float>() + first;
    const float* const gradient = parameter.gradient.as<float>() + first;
    MomentTile first_tile(moments.first, first, count, factors.step, packing);
    MomentTile second_tile(moments.second, first, count, factors.step, packing);
    float *const first_moment = first_tile.values(), *const second_moment = second_tile.values();
    simd::for_each_group(count, [&](int64_t i, int64_t n) {
      const f32x g = simd::load_n(gradient + i, n) * factors.gradient_scale;
      const f32x w = simd::load_n(master + i, n);
      f32x m = simd::load_n(first_moment + i, n);
      m = m + factors.one_minus_beta1 * (g - m);
      const f32x v = simd::load_n(second_moment + i, n) * factors.beta2 + factors.one_minus_beta2 * g * g;
      const f32x update = factors.step_size * m / (simd::sqrt(v) / factors.sqrt_bias_correction2 + factors.epsilon);
      simd::store_n(first_moment + i, m, n);
      simd::store_n(second_moment + i, v, n);
      simd::store_n(master + i, decayed(w, update, decay, parameter.cautious) - update, n);
    });
    first_tile.close();
    second_tile.close();
  });
}

}  // namespace

void adamw_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const AdamMoments> moments,
                  std::span<const TensorBlock> blocks, const AdamWFactors& factors) {
  double bytes = update_bytes(parameters);
  for (const AdamMoments& moment : moments)
    bytes += 2 * static_cast<double>(moment.first.bytes() + moment.second.bytes());
  const KernelTimer timer(stream, "adamw", bytes);
  if (stream.on_device()) return cuda::adamw_update(stream, parameters, moments, blocks, factors);
  const MomentPacking& packing = moment_packing(stream.isa());
  for_each_update(stream, parameters, blocks, factors.decay,
                  [&](const OptimizedParameter& parameter, const TensorBlock& block) {
                    adamw_block(parameter, moments[block.tensor], block, factors, packing);
                  });
}

void adam_direction(Stream& stream, const Tensor& gradient, const Tensor& first, const Tensor& second,
                    const Tensor& direction, const AdamWFactors& factors) {
  const KernelTimer timer(stream, "adam_direction", {gradient, first, second, second, direction});
  if (stream.on_device()) return cuda::adam_direction(stream, gradient, first, second, direction, factors);
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
  if (stream.on_device()) return cuda::round_masters(stream, parameters, blocks);
  for_each_block(stream, parameters, blocks, [](const OptimizedParameter& parameter, const TensorBlock& block) {
    round_to_working(parameter, block.first, block.count);
  });
}

}  // namespace nibble
