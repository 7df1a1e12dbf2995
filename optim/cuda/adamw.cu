#include "optim/cuda/adamw.hpp"

#include "optim/cuda/kernels.hpp"
#include "optim/cuda/updates.hpp"

namespace nibble::cuda {
namespace {

struct AdamWRule {
  static constexpr std::array kinds = {MomentKind::first, MomentKind::second};
  AdamWFactors factors;

  __device__ float decay() const { return factors.decay; }
  __device__ float operator()(float gradient, std::array<float, 2>& m) const {
    const float g = gradient * factors.gradient_scale;
    m[0] = m[0] + factors.one_minus_beta1 * (g - m[0]);
    m[1] = second_moment(m[1], g, factors);
    return factors.step_size * m[0] / adam_divisor(m[1], factors);
  }
};

struct Direction {
  const float *gradient, *first_moment;
  float *second, *direction;
  AdamWFactors factors;

  __device__ void operator()(int64_t first, int count) const {
    const Share<float> g = load(gradient + first, count), m = load(first_moment + first, count);
    Share<float> v = load(second + first, count), result;
    for (int j = 0; j < lane_elements; ++j) {
      v[j] = second_moment(v[j], g[j], factors);
      result[j] = factors.step_size * m[j] / adam_divisor(v[j], factors);
    }
    store(second + first, count, v);
    store(direction + first, count, result);
  }
};

__global__ void __launch_bounds__(tile_threads) round_blocks(StretchTable<DeviceParameter> table) {
  const FoundBlock<DeviceParameter> block = find_block(table, blockIdx.x);
  for_each_tile_of(block.first, block.count, [&](int64_t first, int count) {
    block.subject.store_working(first, count, load(block.subject.master(first), count));
  });
}

}  // namespace

void adamw_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const AdamMoments> moments,
                  std::span<const TensorBlock> blocks, const AdamWFactors& factors) {
  update(stream, parameters, blocks, AdamWRule{factors}, [&](size_t i) {
    return std::array{DeviceMoment(moments[i].first, factors.step), DeviceMoment(moments[i].second, factors.step)};
  });
}

void adam_direction(Stream& stream, const Tensor& gradient, const Tensor& first, const Tensor& second,
                    const Tensor& direction, const AdamWFactors& factors) {
  for_each_tile(stream.queue(), gradient.size(),
                Direction{gradient.on_device<float>(), first.on_device<float>(), second.on_device<float>(),
                          direction.on_device<float>(), factors});
}

void round_masters(Stream& stream, std::span<const OptimizedParameter> parameters,
                   std::span<const TensorBlock> blocks) {
  if (blocks.empty()) return;
  const StretchTable<DeviceParameter> table =
      send_stretches(stream, blocks, [&](int64_t i) { return DeviceParameter(parameters[static_cast<size_t>(i)]); });
  launch(stream.queue(), {static_cast<unsigned>(blocks.size())}, {tile_threads}, 0, round_blocks, table);
}

}  // namespace nibble::cuda
