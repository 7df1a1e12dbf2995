#include "model/cached_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/cpu/dispatch.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::for_each_group, simd::load_n, simd::splat, simd::store_n;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// `scores` holds keys_seen floats, `sums` head_dim.
template <class T>
void attend(const T* query, int64_t keys_seen, int64_t head_dim, const Tensor& keys, const Tensor& values,
            int64_t first_column, float* scores, float* sums, T* y) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  float largest = minus_infinity;
  for (int64_t j = 0; j < keys_seen; ++j) {
    const T* key = keys.row<T>(j) + first_column;
    f32x products = splat(0);
    for_each_group(head_dim,
                   [&](int64_t i, int64_t count) { products += load_n(query + i, count) * load_n(key + i, count); });
    scores[j] = simd::sum(products) * scale;
    largest = std::max(largest, scores[j]);
  }
  f32x totals = splat(0);
  for_each_group(keys_seen, [&](int64_t j, int64_t count) {
    const f32x p = simd::exp(load_n(scores + j, count, minus_infinity) - largest);
    totals += p;
    store_n(scores + j, p, count);
  });
  std::fill_n(sums, head_dim, 0.0f);
  for (int64_t j = 0; j < keys_seen; ++j) {
    const T* value = values.row<T>(j) + first_column;
    for_each_group(head_dim, [&](int64_t i, int64_t count) {
      store_n(sums + i, load_n(sums + i, count) + scores[j] * load_n(value + i, count), count);
    });
  }
  const float total = simd::sum(totals);
  for_each_group(head_dim, [&](int64_t i, int64_t count) { store_n(y + i, load_n(sums + i, count) / total, count); });
}

}  // namespace

void cached_attention(Stream& stream, int64_t kv_heads, int64_t head_dim, int64_t first_position, const Tensor& q,
                      const Tensor& keys, const Tensor& values, const Tensor& scratch, const Tensor& y) {
  const int64_t heads = q.cols / head_dim, group = heads / kv_heads;
  with_operand_type(q.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_tasks(stream, q.rows * heads, [&](int64_t task, int64_t thread) {
      const int64_t token = task / heads, head = task % heads;
      attend(q.row<T>(token) + head * head_dim, first_position + token + 1, head_dim, keys, values,
             head / group * head_dim, scratch.row<float>(thread), scratch.row<float>(thread) + keys.rows,
             y.row<T>(token) + head * head_dim);
    });
  });
}

}  // namespace nibble
