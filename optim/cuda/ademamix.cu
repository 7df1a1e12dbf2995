#include "optim/cuda/adamw.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/cuda/updates.hpp"

namespace nibble::cuda {
namespace {

struct AdEMAMixRule {
  static constexpr std::array kinds = {MomentKind::first, MomentKind::slow, MomentKind::second};
  AdEMAMixFactors factors;

  __device__ float decay() const { return factors.adamw.decay; }
  __device__ float operator()(float gradient, std::array<float, 3>& m) const {
    const AdamWFactors& adamw = factors.adamw;
    const float g = gradient * adamw.gradient_scale;
    m[0] = m[0] + adamw.one_minus_beta1 * (g - m[0]);
    m[1] = m[1] + factors.one_minus_beta3 * (g - m[1]);
    m[2] = second_moment(m[2], g, adamw);
    return (adamw.step_size * m[0] + factors.slow_size * m[1]) / adam_divisor(m[2], adamw);
  }
};

}  // namespace

void ademamix_update(Stream& stream, std::span<const OptimizedParameter> parameters,
                     std::span<const MixedMoments> moments, std::span<const TensorBlock> blocks,
                     const AdEMAMixFactors& factors) {
  const int64_t step = factors.adamw.step;
  update(stream, parameters, blocks, AdEMAMixRule{factors}, [&](size_t i) {
    return std::array{DeviceMoment(moments[i].first, step), DeviceMoment(moments[i].slow, step),
                      DeviceMoment(moments[i].second, step)};
  });
}

}  // namespace nibble::cuda
