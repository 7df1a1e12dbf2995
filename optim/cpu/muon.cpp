#include <algorithm>
#include <cmath>
#include <vector>

#include "optim/cpu/blocks.hpp"
#include "optim/cpu/moment_tile.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

/// Calls update(first, count, values) for the tiles of a moment, on the stream's threads.
template <class Update>
void for_each_tile(Stream& stream, const Moment& moment, int64_t step, Update&& update) {
  const MomentPacking& packing = moment_packing(stream.isa());
  parallel_for(stream, moment.values.size(), block_elements, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += moment.tile()) {
      const int64_t count = std::min(moment.tile(), end - first);
      MomentTile tile(moment, first, count, step, packing);
      update(first, count, tile.values());
      tile.close();
    }
  });
}

}  // namespace

void momentum_update(Stream& stream, const Tensor& gradient, const Moment& momentum, const Tensor& direction,
                     const MomentumFactors& factors) {
  const KernelTimer timer(stream, "momentum",
                          static_cast<double>(gradient.bytes() + direction.bytes() + 2 * momentum.bytes()));
  if (stream.on_device()) return cuda::momentum_update(stream, gradient, momentum, direction, factors);
  for_each_tile(stream, momentum, factors.step, [&](int64_t first, int64_t count, float* kept) {
    const float* const from = gradient.as<float>() + first;
    with_type(direction, [&]<class T>(T) {
      T* const to = direction.as<T>() + first;
      simd::for_each_group(count, [&](int64_t i, int64_t n) {
        const simd::f32x g = simd::load_n(from + i, n) * factors.gradient_scale;
        const simd::f32x m = simd::load_n(kept + i, n) * factors.momentum + g;
        simd::store_n(kept + i, m, n);
        simd::store_n(to + i, factors.nesterov ? m * factors.momentum + g : m, n);
      });
    });
  });
}

void extrapolate(Stream& stream, const Moment& last, const Tensor& gradient, const ExtrapolationFactors& factors) {
  const KernelTimer timer(stream, "extrapolate", static_cast<double>(2 * (gradient.bytes() + last.bytes())));
  if (stream.on_device()) return cuda::extrapolate(stream, last, gradient, factors);
  for_each_tile(stream, last, factors.step, [&](int64_t first, int64_t count, float* before) {
    float* const now = gradient.as<float>() + first;
    simd::for_each_group(count, [&](int64_t i, int64_t n) {
      const simd::f32x g = simd::load_n(now + i, n) * factors.gradient_scale;
      const simd::f32x ahead = g + (g - simd::load_n(before + i, n)) * factors.difference;
      simd::store_n(before + i, g, n);
      simd::store_n(now + i, ahead, n);
    });
  });
}

void scale_rows(Stream& stream, const Tensor& matrix, std::span<const float> factors) {
  const KernelTimer timer(stream, "scale_rows", {matrix, matrix});
  if (stream.on_device()) return cuda::scale_rows(stream, matrix, factors);
  with_type(matrix, [&]<class T>(T) {
    parallel_for(stream, matrix.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* const row = matrix.row<T>(i);
        const float factor = factors[static_cast<size_t>(i)];
        simd::for_each_group(matrix.cols, [&](int64_t j, int64_t count) {
          simd::store_n(row + j, simd::load_n(row + j, count) * factor, count);
        });
      }
    });
  });
}

void normalize_rows(Stream& stream, const Tensor& matrix, const Tensor& moments, double beta2) {
  if (stream.on_device()) return cuda::normalize_rows(stream, matrix, moments, beta2);
  std::vector<double> squares(static_cast<size_t>(matrix.rows));
  gradient_square_sums(stream, {&matrix, 1}, row_blocks(matrix), squares);
  float* const moment = moments.as<float>();
  double before = 0, after = 0;
  std::vector<double> factors;
  for (size_t i = 0; i < squares.size(); ++i) {
    const double mean = squares[i] / static_cast<double>(matrix.cols);
    moment[i] = static_cast<float>(beta2 * static_cast<double>(moment[i]) + (1 - beta2) * mean);
    factors.push_back(1 / (std::sqrt(static_cast<double>(moment[i])) + 1e-8));
    before += squares[i];
    after += squares[i] * factors.back() * factors.back();
  }
  if (after == 0) return;  // a matrix of zeros
  const double kept = std::sqrt(before / after);
  std::vector<float> rounded;
  for (const double factor : factors) rounded.push_back(static_cast<float>(factor * kept));
  scale_rows(stream, matrix, rounded);
}

}  // namespace nibble
