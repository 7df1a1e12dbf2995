#include "model/loss.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/cpu/dispatch.hpp"
#include "model/cuda/kernels.hpp"
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

/// (softmax pull - onehot) scale, where the softmax is exp(logits - maximum) / total. dlogits may be the logits.
/// The exponentials are computed a second time: writing and reading them would take longer.
template <class T>
void gradient_row(const float* logits, int32_t target, float maximum, float total, float pull, float scale,
                  int64_t vocabulary, T* dlogits) {
  const float at_target = (simd::exp(splat(logits[target] - maximum))[0] / total * pull - 1.0f) * scale;
  const float factor = pull * scale / total;
  for_each_group(vocabulary, [&](int64_t i, int64_t count) {
    store_n(dlogits + i, simd::exp(load_n(logits + i, count) - maximum) * factor, count);
  });
  dlogits[target] = T(at_target);
}

struct TokenLoss {
  float loss = 0, log_sum_exp = 0;
};

/// One token, and its gradient if `dlogits` is not null.
template <class T>
TokenLoss token_loss(const float* logits, int32_t target, const TokenObjective& objective, int64_t vocabulary,
                     T* dlogits) {
  if (target < 0) {
    if (dlogits) std::fill_n(dlogits, vocabulary, T(0.0f));
    return {};
  }
  const float maximum = max_of(logits, vocabulary), total = exp_sum(logits, vocabulary, maximum);
  const float log_sum_exp = maximum + std::log(total), loss = log_sum_exp - logits[target];
  const float pull = 1.0f + 2.0f * objective.z * log_sum_exp;
  if (dlogits) gradient_row(logits, target, maximum, total, pull, objective.scale, vocabulary, dlogits);
  return {loss, log_sum_exp};
}

}  // namespace

void softmax_cross_entropy(Stream& stream, const Tensor& logits, std::span<const int32_t> targets,
                           const TokenObjective& objective, std::span<float> losses, std::span<float> log_sum_exps,
                           const Tensor& dlogits) {
  const KernelTimer timer(stream, "softmax_cross_entropy", {logits, dlogits});
  if (stream.on_device())
    return cuda::softmax_cross_entropy(stream, logits, targets, objective, losses, log_sum_exps, dlogits);
  const int64_t vocabulary = logits.cols;
  with_operand_type(dlogits ? dlogits.dtype : DType::f32, [&](auto type) {
    using T = decltype(type);
    parallel_for(stream, logits.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const auto at = static_cast<size_t>(t);
        const TokenLoss token =
            token_loss(logits.row<float>(t), targets[at], objective, vocabulary, dlogits ? dlogits.row<T>(t) : nullptr);
        losses[at] = token.loss;
        log_sum_exps[at] = token.log_sum_exp;
      }
    });
  });
}

}  // namespace nibble
