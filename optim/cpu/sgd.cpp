#include <optional>

#include "optim/cpu/blocks.hpp"
#include "optim/cpu/moment_tile.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;

/// `moment` null: plain gradients.
template <class G>
inline void sgd_block(const OptimizedParameter& parameter, const Moment* moment, const TensorBlock& block,
                      const SgdFactors& factors, const MomentPacking& packing) {
  const float decay = parameter.decay ? factors.decay : 1.0f;
  update_in_tiles(parameter, block, moment ? moment->tile() : block.count, [&](int64_t first, int64_t count) {
    float* const master = parameter.master.as<float>() + first;
    const G* const gradient = parameter.gradient.as<G>() + first;
    std::optional<MomentTile> tile;
    float* const momentum = moment ? tile.emplace(*moment, first, count, factors.step, packing).values() : nullptr;
    simd::for_each_group(count, [&](int64_t i, int64_t n) {
      f32x m = simd::load_n(gradient + i, n) * factors.gradient_scale;
      if (momentum) {
        m = simd::load_n(momentum + i, n) * factors.momentum + m;
        simd::store_n(momentum + i, m, n);
      }
      const f32x w = simd::load_n(master + i, n), update = factors.learning_rate * m;
      simd::store_n(master + i, decayed(w, update, decay, parameter.cautious) - update, n);
    });
    if (tile) tile->close();
  });
}

}  // namespace

void sgd_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const Moment> momenta,
                std::span<const TensorBlock> blocks, const SgdFactors& factors) {
  double bytes = update_bytes(parameters);
  for (const Moment& momentum : momenta) bytes += 2 * static_cast<double>(momentum.bytes());
  const KernelTimer timer(stream, "sgd", bytes);
  if (stream.on_device()) return cuda::sgd_update(stream, parameters, momenta, blocks, factors);
  const MomentPacking& packing = moment_packing(stream.isa());
  for_each_update(
      stream, parameters, blocks, factors.decay, [&](const OptimizedParameter& parameter, const TensorBlock& block) {
        with_type(parameter.gradient, [&]<class G>(G) {
          sgd_block<G>(parameter, momenta.empty() ? nullptr : &momenta[block.tensor], block, factors, packing);
        });
      });
}

}  // namespace nibble
