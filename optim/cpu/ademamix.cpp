#include "optim/cpu/blocks.hpp"
#include "optim/cpu/moment_tile.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;

inline void ademamix_block(const OptimizedParameter& parameter, const MixedMoments& moments, const TensorBlock& block,
                           const AdEMAMixFactors& factors, const MomentPacking& packing) {
  const AdamWFactors& adamw = factors.adamw;
  const float decay = parameter.decay ? adamw.decay : 1.0f;
  update_in_tiles(parameter, block, moments.first.tile(), [&](int64_t first, int64_t count) {
    float* const master = parameter.master.as<float>() + first;
    const float* const gradient = parameter.gradient.as<float>() + first;
    MomentTile first_tile(moments.first, first, count, adamw.step, packing);
    MomentTile slow_tile(moments.slow, first, count, adamw.step, packing);
    MomentTile second_tile(moments.second, first, count, adamw.step, packing);
    float *const first_moment = first_tile.values(), *const slow_moment = slow_tile.values(),
                 *const second_moment = second_tile.values();
    simd::for_each_group(count, [&](int64_t i, int64_t n) {
      const f32x g = simd::load_n(gradient + i, n) * adamw.gradient_scale;
      const f32x w = simd::load_n(master + i, n);
      f32x m = simd::load_n(first_moment + i, n), slow = simd::load_n(slow_moment + i, n);
      m = m + adamw.one_minus_beta1 * (g - m);
      slow = slow + factors.one_minus_beta3 * (g - slow);
      const f32x v = simd::load_n(second_moment + i, n) * adamw.beta2 + adamw.one_minus_beta2 * g * g;
      const f32x update = (adamw.step_size * m + factors.slow_size * slow) /
                          (simd::sqrt(v) / adamw.sqrt_bias_correction2 + adamw.epsilon);
      simd::store_n(first_moment + i, m, n);
      simd::store_n(slow_moment + i, slow, n);
      simd::store_n(second_moment + i, v, n);
      simd::store_n(master + i, decayed(w, update, decay, parameter.cautious) - update, n);
    });
    first_tile.close();
    slow_tile.close();
    second_tile.close();
  });
}

}  // namespace

void ademamix_update(Stream& stream, std::span<const OptimizedParameter> parameters,
                     std::span<const MixedMoments> moments, std::span<const TensorBlock> blocks,
                     const AdEMAMixFactors& factors) {
  double bytes = update_bytes(parameters);
  for (const MixedMoments& moment : moments)
    bytes += 2 * static_cast<double>(moment.first.bytes() + moment.slow.bytes() + moment.second.bytes());
  const KernelTimer timer(stream, "ademamix", bytes);
  if (stream.on_device()) return cuda::ademamix_update(stream, parameters, moments, blocks, factors);
  const MomentPacking& packing = moment_packing(stream.isa());
  for_each_update(stream, parameters, blocks, factors.adamw.decay,
                  [&](const OptimizedParameter& parameter, const TensorBlock& block) {
                    ademamix_block(parameter, moments[block.tensor], block, factors, packing);
                  });
}

}  // namespace nibble
