// The forward pass of FlashAttention-2 (Dao, arXiv 2307.08691, algorithm 1): a block of threads keeps queries of one
// head and lets keys and values pass, in ascending order.
#include <limits>

#include "model/cuda/attention_tiles.hpp"
#include "model/cuda/kernels.hpp"

namespace nibble::cuda {
namespace attention {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// Statistics of the rows of which a lane has elements.
template <int rows>
struct OnlineSoftmax {
  float maximum[rows];  ///< of the scores so far, not scaled
  float total[rows];    ///< of the lane's own elements, relative to the maximum

  __device__ OnlineSoftmax() {
    NIBBLE_UNROLL
    for (int i = 0; i < rows; ++i) maximum[i] = minus_infinity, total[i] = 0;
  }

  /// Turns scores into probabilities relative to the maximum so far, and rescales what was summed under the old one.
  /// `scale` is that of scores, times log2(e).
  template <class Scores, class Output>
  __device__ void update(Scores& scores, Output& output, float scale) {
    NIBBLE_UNROLL
    for (int i = 0; i < rows; ++i) {
      float largest = maximum[i];
      NIBBLE_UNROLL
      for (int j = 0; j < Scores::cols; ++j) largest = fmaxf(largest, scores.at(i, j));
      largest = over_row(largest, Larger());
      const float base = largest == minus_infinity ? 0 : largest * scale;  // nothing seen yet: all are 2^-inf
      const float shrink = exp2f(maximum[i] * scale - base);
      maximum[i] = largest;
      float sum = 0;
      NIBBLE_UNROLL
      for (int j = 0; j < Scores::cols; ++j) {
        scores.at(i, j) = exp2f(fmaf(scores.at(i, j), scale, -base));
        sum += scores.at(i, j);
      }
      total[i] = total[i] * shrink + sum;
      NIBBLE_UNROLL
      for (int j = 0; j < Output::cols; ++j) output.at(i, j) *= shrink;
    }
  }
};

template <class T, int width>
constexpr size_t forward_bytes() {
  using Rows = BlockRows<T, width>;
  return Tile<T, width>::bytes(Rows::forward + 4 * Rows::passing);
}

template <class T, int width>
__global__ __launch_bounds__(BlockRows<T, width>::forward_threads) void forward(Layout layout, Heads<T> qkv, Heads<T> y,
                                                                                float* log_sum_exp,
                                                                                int64_t log_sum_exp_stride,
                                                                                float* max_logits) {
  constexpr int queries = BlockRows<T, width>::forward, keys = BlockRows<T, width>::passing,
                warp_queries = queries / BlockRows<T, width>::forward_warps;
  const int sequence = static_cast<int>(blockIdx.x) / layout.heads, head = static_cast<int>(blockIdx.x) % layout.heads,
            kv_head = head / (layout.heads / layout.kv_heads);
  const int first = static_cast<int>(gridDim.y - 1 - blockIdx.y) * queries;  // those that see the most keys go first
  const int64_t first_token = int64_t{sequence} * layout.length;
  const HeadRows<T> key_rows = qkv.of(first_token, layout.key_head(kv_head)),
                    value_rows = qkv.of(first_token, layout.value_head(kv_head));

  const Tile<T, width> query_tile{shared_memory<T>()}, passing = query_tile.behind(queries);
  const auto key_tile = [&](int stage) { return passing.behind(2 * stage * keys); };
  const auto value_tile = [&](int stage) { return passing.behind((2 * stage + 1) * keys); };
  load_rows(query_tile, queries, qkv.of(first_token, head), first, layout.length);

  Sums<warp_queries / 16, width / 8> output;
  OnlineSoftmax<output.rows> softmax;
  const int warp_first = static_cast<int>(threadIdx.x / warp_lanes) * warp_queries;
  int query[output.rows], first_key[output.rows];
  NIBBLE_UNROLL
  for (int i = 0; i < output.rows; ++i) {
    query[i] = first + warp_first + output.row(i);
    first_key[i] = layout.first_key(first_token, query[i]);
  }
  const int begin = layout.first_key(first_token, first) / keys * keys, end = std::min(first + queries, layout.length);
  const int last_start = layout.first_key(first_token, end - 1);  // starts never decrease

  in_two_stages((end - begin + keys - 1) / keys,
                [&](int step, int stage) {
                  load_rows(key_tile(stage), keys, key_rows, begin + step * keys, layout.length);
                  load_rows(value_tile(stage), keys, value_rows, begin + step * keys, layout.length);
                },
                [&](int step, int stage) {
                  const int key = begin + step * keys;
                  if (key > first + warp_first + warp_queries - 1) return;  // the warp's queries do not see them
                  Sums<warp_queries / 16, keys / 8> scores;
                  multiply_rows(scores, query_tile, warp_first, key_tile(stage));
                  if (key + keys - 1 > first + warp_first || key < last_start) {
                    NIBBLE_UNROLL
                    for (int i = 0; i < scores.rows; ++i) {
                      NIBBLE_UNROLL
                      for (int j = 0; j < scores.cols; ++j) {
                        const int at = key + scores.col(j);
                        if (at > query[i] || at < first_key[i]) scores.at(i, j) = minus_infinity;
                      }
                    }
                  }
                  softmax.update(scores, output, layout.scale * log2e);
                  multiply_sums(output, scores, value_tile(stage));
                });

  float largest = minus_infinity;
  NIBBLE_UNROLL
  for (int i = 0; i < output.rows; ++i) {
    const float total = over_row(softmax.total[i], Plus()), maximum = softmax.maximum[i] * layout.scale;
    NIBBLE_UNROLL
    for (int j = 0; j < output.cols; ++j) output.at(i, j) /= total;
    if (query[i] >= layout.length) continue;
    largest = fmaxf(largest, maximum);
    if (lane() % 4 == 0) log_sum_exp[head * log_sum_exp_stride + first_token + query[i]] = maximum + logf(total);
  }
  if (max_logits) {
    largest = over_warp(largest, Larger());
    if (lane() == 0) atomic_max(max_logits + head, largest);
  }
  store_rows(output, query_tile, warp_first, y.of(first_token, head), first, layout.length);
}

}  // namespace
}  // namespace attention

void attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                       std::span<const int32_t> document_starts, const AttentionScratch&, const Tensor& y,
                       const Tensor& log_sum_exp, std::span<float> max_logits) {
  if (shape.tokens() == 0) return;
  const attention::Layout layout(shape, document_starts);
  attention::with_operands(qkv.dtype, shape.head_dim, [&](auto type, auto width) {
    using T = decltype(type);
    using Rows = attention::BlockRows<T, width>;
    constexpr int queries = Rows::forward;
    const auto heads = static_cast<unsigned>(shape.sequences * shape.heads),
               blocks = static_cast<unsigned>((shape.length + queries - 1) / queries);
    launch(stream.queue(), {heads, blocks}, {Rows::forward_threads}, attention::forward_bytes<T, width>(),
           attention::forward<T, width>, layout, attention::Heads<T>(qkv, shape.head_dim),
           attention::Heads<T>(y, shape.head_dim), log_sum_exp.on_device<float>(), log_sum_exp.stride,
           max_logits.empty() ? nullptr : max_logits.data());
  });
}

}  // namespace nibble::cuda
