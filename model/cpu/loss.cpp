#include "model/loss.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/cpu/dispatch.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::for_each_group, simd::load_n, simd::splat, simd::store_n;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// (softmax - onehot) scale from e = exp(logits - maximum), whose sum is `total`. dlogits may be e itself.
template <class T>
void gradient_row(const float* e, int32_t target, float total, float scale, int64_t vocabulary, T* dlogits) {
  if (target < 0) {
    std::fill_n(dlogits, vocabulary, T(0.0f));
    return;
  }
  const float at_target = (e[target] / total - 1.0f) * scale;
  const float factor = scale / total;
  for_each_group(vocabulary,
                 [&](int64_t i, int64_t count) { store_n(dlogits + i, load_n(e + i, count) * factor, count); });
  dlogits[target] = T(at_target);
}

}  // namespace

void softmax_cross_entropy(Stream& stream, const Tensor& logits, std::span<const int32_t> targets, float scale,
                           std::span<float> losses, const Tensor& dlogits) {
  const KernelTimer timer(stream, "softmax_cross_entropy", {logits, dlogits});
  const int64_t vocabulary = logits.cols;
  parallel_for(stream, logits.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = logits.row<float>(t);
      const int32_t target = targets[static_cast<size_t>(t)];
      f32x largest = splat(minus_infinity);
      for_each_group(vocabulary, [&](int64_t i, int64_t count) {
        largest = simd::max(largest, load_n(row + i, count, minus_infinity));
      });
      const float maximum = simd::max(largest), target_logit = target < 0 ? 0.0f : row[target];
      f32x sums = splat(0);
      for_each_group(vocabulary, [&](int64_t i, int64_t count) {
        const f32x e = simd::exp(load_n(row + i, count, minus_infinity) - maximum);
        sums += e;
        store_n(row + i, e, count);
      });
      const float total = simd::sum(sums);
      losses[static_cast<size_t>(t)] = target < 0 ? 0.0f : maximum + std::log(total) - target_logit;
      if (!dlogits) continue;
      if (dlogits.dtype == DType::f32) gradient_row(row, target, total, scale, vocabulary, dlogits.row<float>(t));
      else gradient_row(row, target, total, scale, vocabulary, dlogits.row<bf16>(t));
    }
  });
}

}  // namespace nibble
