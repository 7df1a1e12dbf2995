#include "optim/cuda/kernels.hpp"
#include "optim/cuda/updates.hpp"

namespace nibble::cuda {
namespace {

/// Without a momentum: plain gradients.
template <MomentKind... momentum_kind>
struct SgdRule {
  static constexpr std::array<MomentKind, sizeof...(momentum_kind)> kinds = {momentum_kind...};
  SgdFactors factors;

  __device__ float decay() const { return factors.decay; }
  __device__ float operator()(float gradient, std::array<float, kinds.size()>& momentum) const {
    float m = gradient * factors.gradient_scale;
    if constexpr (!kinds.empty()) momentum[0] = m = momentum[0] * factors.momentum + m;
    return factors.learning_rate * m;
  }
};

}  // namespace

void sgd_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const Moment> momenta,
                std::span<const TensorBlock> blocks, const SgdFactors& factors) {
  if (momenta.empty())
    return update(stream, parameters, blocks, SgdRule<>{factors}, [](size_t) { return std::array<DeviceMoment, 0>{}; });
  update(stream, parameters, blocks, SgdRule<MomentKind::momentum>{factors},
         [&](size_t i) { return std::array{DeviceMoment(momenta[i], factors.step)}; });
}

}  // namespace nibble::cuda
