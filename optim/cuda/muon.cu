#include <cassert>

#include "optim/cuda/kernels.hpp"
#include "optim/cuda/moment_tiles.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/staging.hpp"

namespace nibble::cuda {
namespace {

template <class T>
struct Momentum {
  const float* gradient;
  DeviceMoment momentum;
  T* direction;
  MomentumFactors factors;

  __device__ void operator()(int64_t first, int count) const {
    with_format(momentum, [&]<class Format>(Format) {
      const typename Format::Kept before = Format::read(momentum, first, count);
      const Share<float> gradients = load(gradient + first, count);
      Share<float> kept = Format::unpacked(before);
      Share<T> ahead;
      for (int j = 0; j < lane_elements; ++j) {
        const float g = gradients[j] * factors.gradient_scale, m = kept[j] * factors.momentum + g;
        kept[j] = m;
        ahead[j] = static_cast<T>(factors.nesterov ? m * factors.momentum + g : m);
      }
      Format::write(momentum, first, count, kept);
      store(direction + first, count, ahead);
    });
  }
};

struct Extrapolation {
  DeviceMoment last;
  float* gradient;
  ExtrapolationFactors factors;

  __device__ void operator()(int64_t first, int count) const {
    with_format(last, [&]<class Format>(Format) {
      const typename Format::Kept kept = Format::read(last, first, count);
      Share<float> now = load(gradient + first, count), before = Format::unpacked(kept);
      for (int j = 0; j < lane_elements; ++j) {
        const float g = now[j] * factors.gradient_scale;
        now[j] = g + (g - before[j]) * factors.difference;
        before[j] = g;
      }
      Format::write(last, first, count, before);
      store(gradient + first, count, now);
    });
  }
};

template <class T>
struct ScaleRows {
  Rows<T> matrix;
  const float* factors;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group group = matrix.load(row, col, count);
    for (float& element : group.values) element *= factors[row];
    matrix.store(row, col, count, group);
  }
};

}  // namespace

void momentum_update(Stream& stream, const Tensor& gradient, const Moment& momentum, const Tensor& direction,
                     const MomentumFactors& factors) {
  with_float_type(direction.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_tile(stream.queue(), momentum.values.size(),
                  Momentum<T>{gradient.on_device<float>(), DeviceMoment(momentum, factors.step),
                              direction.on_device<T>(), factors});
  });
}

void extrapolate(Stream& stream, const Moment& last, const Tensor& gradient, const ExtrapolationFactors& factors) {
  for_each_tile(stream.queue(), last.values.size(),
                Extrapolation{DeviceMoment(last, factors.step), gradient.on_device<float>(), factors});
}

void scale_rows(Stream& stream, const Tensor& matrix, std::span<const float> factors) {
  const float* const there = stream.staging().send(factors);
  with_float_type(matrix.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, matrix.rows, matrix.cols, ScaleRows<T>{Rows<T>(matrix), there});
  });
}

}  // namespace nibble::cuda
