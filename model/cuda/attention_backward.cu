// The backward pass of FlashAttention-2 (Dao, arXiv 2307.08691, algorithm 2), with nothing added in an order that the
// scheduler chooses: dk and dv are sums of one block of threads that keeps keys and lets queries pass, dq is one of
// another that keeps queries and lets keys pass. Scores and gradients of probabilities are so computed twice, seven
// products instead of five.
#include <bit>

#include "model/cuda/attention_tiles.hpp"
#include "model/cuda/kernels.hpp"

namespace nibble::cuda {
namespace attention {
namespace {

/// Of rows [head, token] of scores.
struct RowStatistics {
  const float *log_sum_exp, *delta;
  int64_t log_sum_exp_stride, delta_stride;

  RowStatistics(const Tensor& lse, const Tensor& delta_of_rows)
      : log_sum_exp(lse.on_device<float>()),
        delta(delta_of_rows.on_device<float>()),
        log_sum_exp_stride(lse.stride),
        delta_stride(delta_of_rows.stride) {}

  __device__ const float* log_sum_exp_of(int head, int64_t token) const {
    return log_sum_exp + head * log_sum_exp_stride + token;
  }
  __device__ const float* delta_of(int head, int64_t token) const { return delta + head * delta_stride + token; }
};

template <class T>
__device__ Pack<float, chunk_of<T>> load_chunk(const HeadRows<T>& head, int64_t row, int col) {
  constexpr int chunk = chunk_of<T>;
  const T* const from = head.row(row) + col;
  Pack<float, chunk> values{};
  if (col >= head.columns) return values;
  if (head.wide) {
    const auto packed = *reinterpret_cast<const Pack<T, chunk>*>(from);
    for (int j = 0; j < chunk; ++j) values[j] = static_cast<float>(packed[j]);
  } else {
    for (int j = 0; j < chunk && col + j < head.columns; ++j) values[j] = static_cast<float>(from[j]);
  }
  return values;
}

constexpr unsigned delta_threads = 256;

/// delta[head, token] = rowsum(dy y): what the softmax's gradient subtracts. Neighbouring lanes share a row, each with
/// the sum of one chunk; these are added in the order of a tree.
template <class T, int width>
__global__ __launch_bounds__(delta_threads) void row_products(Heads<T> dy, Heads<T> y, int64_t tokens, float* delta,
                                                              int64_t delta_stride) {
  constexpr unsigned lanes = width / chunk_of<T>;
  const int64_t token = int64_t{blockIdx.x} * (delta_threads / lanes) + threadIdx.x / lanes;
  const auto head = static_cast<int>(blockIdx.y), col = static_cast<int>(threadIdx.x % lanes) * chunk_of<T>;
  float sum = 0;
  if (token < tokens) {
    const auto left = load_chunk(dy.of(0, head), token, col), right = load_chunk(y.of(0, head), token, col);
    for (int j = 0; j < chunk_of<T>; ++j) sum += left[j] * right[j];
  }
  for (unsigned distance = lanes / 2; distance > 0; distance /= 2) sum += of_lane(sum, lane() ^ distance);
  if (col == 0 && token < tokens) delta[head * delta_stride + token] = sum;
}

/// As bf16 has it; such a number is the upper half of a word whose lower half is 0.
__device__ inline float rounded(float value, bf16) { return std::bit_cast<float>(bf16_pair(0, value)); }
__device__ inline float rounded(float value, float) { return value; }

/// Turns a score into its probability as an operand of type T, and the gradient of that into the score's.
template <class T>
__device__ void differentiate(float& score, float& gradient, float scale, float log_sum_exp, float delta,
                              bool visible) {
  score = visible ? rounded(exp2f(fmaf(score, scale * log2e, -log_sum_exp * log2e)), T()) : 0;
  gradient = visible ? score * (gradient - delta) * scale : 0;
}

/// What passes by beside two tiles, for each query in it.
template <class T, int width>
struct PassingQueries {
  static constexpr int count = BlockRows<T, width>::passing;
  float log_sum_exp[count], delta[count];
  int32_t first_key[count];

  /// Begins to copy those of queries [first, first + count).
  __device__ void load(const Layout& layout, const RowStatistics& statistics, int head, int64_t first_token,
                       int first) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= count) return;
    const bool present = first + i < layout.length;
    const int64_t token = first_token + (present ? first + i : 0);
    copy_async<4>(log_sum_exp + i, statistics.log_sum_exp_of(head, token), present);
    copy_async<4>(delta + i, statistics.delta_of(head, token), present);
    if (layout.document_starts) copy_async<4>(first_key + i, layout.document_starts + token, present);
  }
};

template <class T, int width>
constexpr size_t backward_bytes() {
  using Rows = BlockRows<T, width>;
  static_assert(Rows::passing <= Rows::backward_threads);
  return Tile<T, width>::bytes(2 * Rows::backward + 4 * Rows::passing) + 2 * sizeof(PassingQueries<T, width>);
}

/// dk and dv of a block of keys; all query heads of the group pass, block by block, in order.
template <class T, int width>
__global__ __launch_bounds__(BlockRows<T, width>::backward_threads) void backward_of_keys(Layout layout, Heads<T> qkv,
                                                                                          Heads<T> dy,
                                                                                          RowStatistics statistics,
                                                                                          Heads<T> dqkv) {
  constexpr int keys = BlockRows<T, width>::backward, queries = BlockRows<T, width>::passing;
  const int sequence = static_cast<int>(blockIdx.x) / layout.kv_heads,
            kv_head = static_cast<int>(blockIdx.x) % layout.kv_heads, group = layout.heads / layout.kv_heads;
  const int first = static_cast<int>(blockIdx.y) * keys;  // those that the most queries see go first
  const int64_t first_token = int64_t{sequence} * layout.length;

  const Tile<T, width> key_tile{shared_memory<T>()}, value_tile = key_tile.behind(keys),
                                                     passing = value_tile.behind(keys);
  const auto query_tile = [&](int stage) { return passing.behind(2 * stage * queries); };
  const auto dy_tile = [&](int stage) { return passing.behind((2 * stage + 1) * queries); };
  auto* const rows = reinterpret_cast<PassingQueries<T, width>*>(passing.behind(4 * queries).data);
  load_rows(key_tile, keys, qkv.of(first_token, layout.key_head(kv_head)), first, layout.length);
  load_rows(value_tile, keys, qkv.of(first_token, layout.value_head(kv_head)), first, layout.length);

  const int warp_first = static_cast<int>(threadIdx.x / warp_lanes) * 16;
  const int begin = first / queries * queries,
            end = layout.end_of_queries(first_token, std::min(first + keys, layout.length) - 1);
  Sums<1, width / 8> dkey, dvalue;
  in_two_stages((end - begin + queries - 1) / queries * group,
                [&](int step, int stage) {
                  const int query = begin + step / group * queries, head = kv_head * group + step % group;
                  load_rows(query_tile(stage), queries, qkv.of(first_token, head), query, layout.length);
                  load_rows(dy_tile(stage), queries, dy.of(first_token, head), query, layout.length);
                  rows[stage].load(layout, statistics, head, first_token, query);
                },
                [&](int step, int stage) {
                  const int query = begin + step / group * queries;
                  if (query + queries <= first + warp_first) return;  // they see none of the warp's keys
                  const PassingQueries<T, width>& row = rows[stage];
                  Sums<1, queries / 8> scores, gradients;
                  multiply_rows(scores, key_tile, warp_first, query_tile(stage));
                  multiply_rows(gradients, value_tile, warp_first, dy_tile(stage));
                  const bool all_visible =
                      first + warp_first + 15 <= query && query + queries <= end &&
                      (!layout.document_starts || row.first_key[queries - 1] <= first + warp_first);
                  NIBBLE_UNROLL
                  for (int j = 0; j < scores.cols; ++j) {
                    const int col = scores.col(j);
                    const float log_sum_exp = row.log_sum_exp[col], delta = row.delta[col];
                    const int first_key = layout.document_starts ? row.first_key[col] : 0;
                    NIBBLE_UNROLL
                    for (int i = 0; i < scores.rows; ++i) {
                      const int key = first + warp_first + scores.row(i);
                      const bool visible = all_visible || (key >= first_key && key <= query + col && query + col < end);
                      differentiate<T>(scores.at(i, j), gradients.at(i, j), layout.scale, log_sum_exp, delta, visible);
                    }
                  }
                  multiply_sums(dvalue, scores, dy_tile(stage));
                  multiply_sums(dkey, gradients, query_tile(stage));
                });
  store_rows(dkey, key_tile, warp_first, dqkv.of(first_token, layout.key_head(kv_head)), first, layout.length);
  store_rows(dvalue, value_tile, warp_first, dqkv.of(first_token, layout.value_head(kv_head)), first, layout.length);
}

/// dq of a block of queries of one head; keys pass in ascending order.
template <class T, int width>
__global__ __launch_bounds__(BlockRows<T, width>::backward_threads) void backward_of_queries(Layout layout,
                                                                                             Heads<T> qkv, Heads<T> dy,
                                                                                             RowStatistics statistics,
                                                                                             Heads<T> dqkv) {
  constexpr int queries = BlockRows<T, width>::backward, keys = BlockRows<T, width>::passing;
  const int sequence = static_cast<int>(blockIdx.x) / layout.heads, head = static_cast<int>(blockIdx.x) % layout.heads,
            kv_head = head / (layout.heads / layout.kv_heads);
  const int first = static_cast<int>(gridDim.y - 1 - blockIdx.y) * queries;  // those that see the most keys go first
  const int64_t first_token = int64_t{sequence} * layout.length;
  const HeadRows<T> key_rows = qkv.of(first_token, layout.key_head(kv_head)),
                    value_rows = qkv.of(first_token, layout.value_head(kv_head));

  const Tile<T, width> query_tile{shared_memory<T>()}, dy_tile = query_tile.behind(queries),
                                                       passing = dy_tile.behind(queries);
  const auto key_tile = [&](int stage) { return passing.behind(2 * stage * keys); };
  const auto value_tile = [&](int stage) { return passing.behind((2 * stage + 1) * keys); };
  load_rows(query_tile, queries, qkv.of(first_token, head), first, layout.length);
  load_rows(dy_tile, queries, dy.of(first_token, head), first, layout.length);

  Sums<1, width / 8> dquery;
  const int warp_first = static_cast<int>(threadIdx.x / warp_lanes) * 16;
  int query[dquery.rows], first_key[dquery.rows];
  float log_sum_exp[dquery.rows], delta[dquery.rows];
  NIBBLE_UNROLL
  for (int i = 0; i < dquery.rows; ++i) {
    query[i] = first + warp_first + dquery.row(i);
    first_key[i] = layout.first_key(first_token, query[i]);
    const bool present = query[i] < layout.length;
    log_sum_exp[i] = present ? *statistics.log_sum_exp_of(head, first_token + query[i]) : 0;
    delta[i] = present ? *statistics.delta_of(head, first_token + query[i]) : 0;
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
                  if (key > first + warp_first + 15) return;  // the warp's queries do not see them
                  Sums<1, keys / 8> scores, gradients;
                  multiply_rows(scores, query_tile, warp_first, key_tile(stage));
                  multiply_rows(gradients, dy_tile, warp_first, value_tile(stage));
                  const bool all_visible = key + keys - 1 <= first + warp_first && key >= last_start;
                  NIBBLE_UNROLL
                  for (int i = 0; i < scores.rows; ++i) {
                    NIBBLE_UNROLL
                    for (int j = 0; j < scores.cols; ++j) {
                      const int at = key + scores.col(j);
                      differentiate<T>(scores.at(i, j), gradients.at(i, j), layout.scale, log_sum_exp[i], delta[i],
                                       all_visible || (at >= first_key[i] && at <= query[i]));
                    }
                  }
                  multiply_sums(dquery, gradients, key_tile(stage));
                });
  store_rows(dquery, query_tile, warp_first, dqkv.of(first_token, head), first, layout.length);
}

}  // namespace
}  // namespace attention

void attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& dy, const Tensor& qkv,
                        std::span<const int32_t> document_starts, const Tensor& y, const Tensor& log_sum_exp,
                        const AttentionScratch& scratch, const Tensor& dqkv) {
  if (shape.tokens() == 0) return;
  const attention::Layout layout(shape, document_starts);
  const attention::RowStatistics statistics(log_sum_exp, scratch.delta());
  attention::with_operands(qkv.dtype, shape.head_dim, [&](auto type, auto width) {
    using T = decltype(type);
    using Rows = attention::BlockRows<T, width>;
    const attention::Heads<T> heads_of_dy(dy, shape.head_dim), heads_of_y(y, shape.head_dim),
        heads_of_qkv(qkv, shape.head_dim), heads_of_dqkv(dqkv, shape.head_dim);
    constexpr unsigned tokens_at_once = attention::delta_threads / (width / attention::chunk_of<T>);
    const auto token_blocks = static_cast<unsigned>((shape.tokens() + tokens_at_once - 1) / tokens_at_once),
               heads = static_cast<unsigned>(shape.heads);
    launch(stream.queue(), {token_blocks, heads}, {attention::delta_threads}, 0, attention::row_products<T, width>,
           heads_of_dy, heads_of_y, shape.tokens(), scratch.delta().on_device<float>(), scratch.delta().stride);

    const auto blocks = static_cast<unsigned>((shape.length + Rows::backward - 1) / Rows::backward),
               sequences = static_cast<unsigned>(shape.sequences);
    constexpr dim3 threads{Rows::backward_threads};
    constexpr size_t bytes = attention::backward_bytes<T, width>();
    launch(stream.queue(), {sequences * static_cast<unsigned>(shape.kv_heads), blocks}, threads, bytes,
           attention::backward_of_keys<T, width>, layout, heads_of_qkv, heads_of_dy, statistics, heads_of_dqkv);
    launch(stream.queue(), {sequences * heads, blocks}, threads, bytes, attention::backward_of_queries<T, width>,
           layout, heads_of_qkv, heads_of_dy, statistics, heads_of_dqkv);
  });
}

}  // namespace nibble::cuda
