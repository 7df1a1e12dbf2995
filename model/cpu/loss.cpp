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

float max_of(const float* row, int64_t n) {
  f32x largest = splat(minus_infinity);
  for_each_group(
      n, [&](int64_t i, int64_t count) { largest = simd::max(largest, load_n(row + i, count, minus_infinity)); });
  return simd::max(largest);
}

/// The sum of exp(row - maximum).
float exp_sum(const float* row, int64_t n, float maximum) {
  f32x sums = splat(0);
  for_each_group(
      n, [&](int64_t i, int64_t count) { sums += simd::exp(load_n(row + i, count, minus_infinity) - maximum); });
  return simd::sum(sums);
}

/// (softmax - onehot) scale, where the softmax is exp(logits - maximum) / total. dlogits may be the logits.
/// The exponentials are computed a second time: writing and reading them would take longer.
template <class T>
void gradient_row(const float* logits, int32_t target, float maximum, float total, float scale, int64_t vocabulary,
                  T* dlogits) {
  const float at_target = (simd::exp(splat(logits[target] - maximum))[0] / total - 1.0f) * scale;
  const float factor = scale / total;
  for_each_group(vocabulary, [&](int64_t i, int64_t count) {
    store_n(dlogits + i, simd::exp(load_n(logits + i, count) - maximum) * factor, count);
  });
  dlogits[target] = T(at_target);
}

/// One token: its loss, and its gradient if `dlogits` is not null.
template <class T>
float token_loss(const float* logits, int32_t target, float scale, int64_t vocabulary, T* dlogits) {
  if (target < 0) {
    if (dlogits) std::fill_n(dlogits, vocabulary, T(0.0f));
    return 0;
  }
  const float maximum = max_of(logits, vocabulary), total = exp_sum(logits, vocabulary, maximum);
  const float loss = maximum + std::log(total) - logits[target];
  if (dlogits) gradient_row(logits, target, maximum, total, scale, vocabulary, dlogits);
  return loss;
}

}  // namespace

void softmax_cross_entropy(Stream& stream, const Tensor& logits, std::span<const int32_t> targets, float scale,
                           std::span<float> losses, const Tensor& dlogits) {
  const KernelTimer timer(stream, "softmax_cross_entropy", {logits, dlogits});
  const int64_t vocabulary = logits.cols;
  with_operand_type(dlogits ? dlogits.dtype : DType::f32, [&](auto type) {
    using T = decltype(type);
    parallel_for(stream, logits.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        losses[static_cast<size_t>(t)] = token_loss(logits.row<float>(t), targets[static_cast<size_t>(t)], scale,
                                                    vocabulary, dlogits ? dlogits.row<T>(t) : nullptr);
    });
  });
}

}  // namespace nibble
