// Cross-entropy in two passes over logits, the first of which finds maximum and sum at once (Milakov and Gimelshein,
// "Online normalizer calculation for softmax", arXiv 1805.02867).
#include <limits>

#include "model/cuda/kernels.hpp"
#include "tensor/cuda/elements.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned threads = 512;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// A sum of exponentials relative to a maximum: of those that a thread has seen.
struct ExponentialSum {
  float maximum = minus_infinity, total = 0;

  __device__ float base() const { return maximum == minus_infinity ? 0 : maximum; }

  __device__ void add(const Group& logits) {
    float largest = maximum;
    for (const float logit : logits.values) largest = fmaxf(largest, logit);
    raise(largest);
    float sum = 0;
    for (const float logit : logits.values) sum += expf(logit - base());
    total += sum;
  }
  __device__ void raise(float largest) {
    const float before = maximum;
    maximum = largest;
    if (largest > before) total *= expf(before - largest);
  }
};

/// A block has a row, its threads groups of neighbours in turns. Each adds the exponentials of a group, and groups in
/// ascending order; the threads' sums are added in the order of over_block.
template <class T>
__global__ __launch_bounds__(threads) void cross_entropy(Rows<float> logits, int64_t vocabulary, const int32_t* targets,
                                                         TokenObjective objective, float* losses, float* log_sum_exps,
                                                         Rows<T> dlogits, bool differentiate) {
  __shared__ float shared[threads / warp_lanes];
  const int64_t token = blockIdx.x;
  const int32_t target = targets[token];
  const auto for_each = [&](auto&& body) {
    for (int64_t col = int64_t{threadIdx.x} * group_elements; col < vocabulary; col += threads * group_elements)
      body(col, static_cast<int>(vocabulary - col < group_elements ? vocabulary - col : group_elements));
  };
  if (target < 0) {
    if (threadIdx.x == 0) losses[token] = 0, log_sum_exps[token] = 0;
    if (differentiate) for_each([&](int64_t col, int count) { dlogits.store(token, col, count, Group{}); });
    return;
  }
  const float of_target = logits.row(token)[target];  // before dlogits take its place

  ExponentialSum own;
  for_each([&](int64_t col, int count) {
    Group group = logits.load(token, col, count);
    for (int j = 0; j < group_elements; ++j) group[j] = j < count ? group[j] : minus_infinity;
    own.add(group);
  });
  own.raise(over_block(own.maximum, shared, Larger()));
  const float maximum = own.maximum, total = over_block(own.total, shared, Plus());
  const float log_sum_exp = maximum + logf(total);
  if (threadIdx.x == 0) losses[token] = log_sum_exp - of_target, log_sum_exps[token] = log_sum_exp;
  if (!differentiate) return;

  const float pull = 1.0f + 2.0f * objective.z * log_sum_exp;
  const float at_target = (expf(of_target - maximum) / total * pull - 1.0f) * objective.scale;
  const float factor = pull * objective.scale / total;
  for_each([&](int64_t col, int count) {
    Group group = logits.load(token, col, count);
    for (int j = 0; j < group_elements; ++j)
      group[j] = col + j == target ? at_target : expf(group[j] - maximum) * factor;
    dlogits.store(token, col, count, group);
  });
}

}  // namespace

void softmax_cross_entropy(Stream& stream, const Tensor& logits, std::span<const int32_t> targets,
                           const TokenObjective& objective, std::span<float> losses, std::span<float> log_sum_exps,
                           const Tensor& dlogits) {
  if (logits.rows == 0) return;
  const bool differentiate = static_cast<bool>(dlogits);
  with_float_type(differentiate ? dlogits.dtype : DType::f32, [&](auto type) {
    using T = decltype(type);
    launch(stream.queue(), {static_cast<unsigned>(logits.rows)}, {threads}, 0, cross_entropy<T>, Rows<float>(logits),
           logits.cols, targets.data(), objective, losses.data(), log_sum_exps.data(), Rows<T>(dlogits), differentiate);
  });
}

}  // namespace nibble::cuda
