#include "optim/cpu/blocks.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;

template <class T, class G>
inline void sgd_block(const OptimizedParameter& parameter, const Tensor& momenta, const TensorBlock& block,
                      const SgdFactors& factors) {
  const float decay = parameter.decay ? factors.decay : 1.0f;
  for_each_row_part<T>(parameter, block, [&](int64_t first, int64_t part, T* working) {
    float* const master = parameter.master.as<float>() + first;
    const G* const gradient = parameter.gradient.as<G>() + first;
    float* const momentum = momenta ? momenta.as<float>() + first : nullptr;
    simd::for_each_group(part, [&](int64_t i, int64_t count) {
      f32x m = simd::load_n(gradient + i, count) * factors.gradient_scale;
      if (momentum) {
        m = simd::load_n(momentum + i, count) * factors.momentum + m;
        simd::store_n(momentum + i, m, count);
      }
      const f32x update = factors.learning_rate * m;
      const f32x w = decayed(simd::load_n(master + i, count), update, decay, parameter.cautious) - update;
      simd::store_n(master + i, w, count);
      simd::store_n(working + i, w, count);
    });
  });
}

}  // namespace

void sgd_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const Tensor> momenta,
                std::span<const TensorBlock> blocks, const SgdFactors& factors) {
  double bytes = 0;
  for (const OptimizedParameter& parameter : parameters)
    bytes += static_cast<double>((momenta.empty() ? 3 : 5) * parameter.master.bytes() +
                                 parameter.master.size() * size_of(parameter.working.dtype));
  const KernelTimer timer(stream, "sgd", bytes);
  for_each_update(stream, parameters, blocks, factors.decay,
                  [&]<class T>(T, const OptimizedParameter& parameter, const TensorBlock& block) {
                    with_type(parameter.gradient, [&]<class G>(G) {
                      sgd_block<T, G>(parameter, momenta.empty() ? Tensor() : momenta[block.tensor], block, factors);
                    });
                  });
}

}  // namespace nibble
