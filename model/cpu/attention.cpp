#include "model/attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/cpu/dispatch.hpp"
#include "tensor/gemm.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::for_each_group, simd::load_n, simd::splat, simd::store_n;

// A block's scores (fp32), probabilities and operands take 128 x 256 x (4 + 2 + 2) B + 3 x 256 x 128 x 2 B < 0.5 MB
// at hd = 128: they stay in a 1 MB L2 cache while four GEMMs read them.
constexpr int64_t query_block = 128, key_block = 256;

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

/// The part of `qkv` (or of its gradient) that belongs to one sequence and head.
struct HeadViews {
  const AttentionShape& shape;
  int64_t first_token;

  Tensor query(const Tensor& x, int64_t head, int64_t first, int64_t count) const {
    return x.slice_rows(first_token + first, count).slice_cols(head * shape.head_dim, shape.head_dim);
  }
  Tensor key(const Tensor& x, int64_t kv_head, int64_t first, int64_t count) const {
    return query(x, shape.heads + kv_head, first, count);
  }
  Tensor value(const Tensor& x, int64_t kv_head, int64_t first, int64_t count) const {
    return query(x, shape.heads + shape.kv_heads + kv_head, first, count);
  }
};

/// Which keys a query may see.
struct Mask {
  std::span<const int32_t> starts;  ///< of one sequence; empty: documents are not told apart

  int64_t first_key(int64_t query) const { return starts.empty() ? 0 : starts[static_cast<size_t>(query)]; }

  /// The range of columns of the block of keys [first, first + count) that `query` sees.
  struct Range {
    int64_t begin, end;
  };
  Range visible(int64_t query, int64_t first, int64_t count) const {
    const int64_t end = std::clamp<int64_t>(query + 1 - first, 0, count);
    return {std::clamp<int64_t>(first_key(query) - first, 0, end), end};
  }
  /// The first block of keys that any query from `query` on can see: starts never decrease.
  int64_t first_block(int64_t query) const { return first_key(query) / key_block * key_block; }
};

Mask mask_of(const AttentionShape& shape, std::span<const int32_t> starts, int64_t sequence) {
  if (starts.empty()) return {};
  return {starts.subspan(static_cast<size_t>(sequence * shape.length), static_cast<size_t>(shape.length))};
}

template <class T>
void zero_outside(T* row, Mask::Range range, int64_t count) {
  std::fill(row, row + range.begin, T(0.0f));
  std::fill(row + range.end, row + count, T(0.0f));
}

/// One row of the online softmax: turns scores into probabilities relative to the running maximum, and rescales what
/// was accumulated under the old maximum.
template <class T>
void softmax_row(const float* scores, T* probabilities, Mask::Range range, int64_t count, float scale, float& maximum,
                 float& total, float* output, int64_t head_dim) {
  zero_outside(probabilities, range, count);
  if (range.begin == range.end) return;
  const float* visible = scores + range.begin;
  T* out = probabilities + range.begin;
  const int64_t n = range.end - range.begin;
  f32x largest = splat(minus_infinity);
  for_each_group(
      n, [&](int64_t j, int64_t width) { largest = simd::max(largest, load_n(visible + j, width, minus_infinity)); });
  const float raised = std::max(maximum, simd::max(largest) * scale);
  f32x sums = splat(0);
  for_each_group(n, [&](int64_t j, int64_t width) {
    const f32x p = simd::exp(load_n(visible + j, width, minus_infinity) * scale - raised);
    sums += p;
    store_n(out + j, p, width);
  });
  const float shrink = simd::exp(splat(maximum - raised))[0];
  total = total * shrink + simd::sum(sums);
  if (shrink != 1.0f)
    for_each_group(head_dim,
                   [&](int64_t j, int64_t width) { store_n(output + j, load_n(output + j, width) * shrink, width); });
  maximum = raised;
}

/// The queries [first, first + count) of one head, against all keys that they see.
template <class T>
void forward_block(Stream& stream, const HeadViews& views, const Mask& mask, int64_t head, int64_t first, int64_t count,
                   const Tensor& qkv, const AttentionScratch::Part& scratch, const Tensor& y, float* log_sum_exp) {
  const AttentionShape& shape = views.shape;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  float maximum[query_block], total[query_block];
  std::fill_n(maximum, count, minus_infinity);
  std::fill_n(total, count, 0.0f);
  const Tensor output = scratch.output.slice_rows(0, count);
  for (int64_t i = 0; i < count; ++i) std::fill_n(output.row<float>(i), shape.head_dim, 0.0f);

  for (int64_t key = mask.first_block(first); key < first + count; key += key_block) {
    const int64_t keys = std::min(key_block, first + count - key);
    const Tensor scores = scratch.scores.slice_rows(0, count).slice_cols(0, keys);
    const Tensor probabilities = scratch.probabilities.slice_rows(0, count).slice_cols(0, keys);
    gemm_in_task(stream, views.query(qkv, head, first, count), Transpose::no, views.key(qkv, kv_head, key, keys),
                 Transpose::yes, scores);
    for (int64_t i = 0; i < count; ++i)
      softmax_row(scores.row<float>(i), probabilities.row<T>(i), mask.visible(first + i, key, keys), keys, scale,
                  maximum[i], total[i], output.row<float>(i), shape.head_dim);
    gemm_in_task(stream, probabilities, Transpose::no, views.value(qkv, kv_head, key, keys), Transpose::no, output,
                 output);
  }
  const Tensor result = views.query(y, head, first, count);
  for (int64_t i = 0; i < count; ++i) {
    const float* sums = output.row<float>(i);
    T* row = result.row<T>(i);
    for_each_group(shape.head_dim,
                   [&](int64_t j, int64_t width) { store_n(row + j, load_n(sums + j, width) / total[i], width); });
    log_sum_exp[first + i] = maximum[i] + std::log(total[i]);
  }
}

/// One row of the backward pass: p = exp(s - lse).
template <class T>
void probabilities_row(const float* scores, T* probabilities, Mask::Range range, int64_t count, float scale,
                       float lse) {
  zero_outside(probabilities, range, count);
  for_each_group(range.end - range.begin, [&](int64_t offset, int64_t width) {
    const int64_t j = range.begin + offset;
    store_n(probabilities + j, simd::exp(load_n(scores + j, width) * scale - lse), width);
  });
}
/// ds = p (dp - delta) scale.
template <class T>
void dscores_row(const float* dprobabilities, const T* probabilities, T* dscores, Mask::Range range, int64_t count,
                 float scale, float delta) {
  zero_outside(dscores, range, count);
  for_each_group(range.end - range.begin, [&](int64_t offset, int64_t width) {
    const int64_t j = range.begin + offset;
    store_n(dscores + j, load_n(probabilities + j, width) * (load_n(dprobabilities + j, width) - delta) * scale, width);
  });
}

template <class T>
float dot(const T* a, const T* b, int64_t n) {
  f32x products = splat(0);
  for_each_group(n, [&](int64_t j, int64_t width) { products += load_n(a + j, width) * load_n(b + j, width); });
  return simd::sum(products);
}

template <class T>
void copy_rows(const Tensor& from, const Tensor& to) {
  for (int64_t i = 0; i < from.rows; ++i) {
    const float* source = from.row<float>(i);
    T* target = to.row<T>(i);
    for_each_group(from.cols, [&](int64_t j, int64_t width) { store_n(target + j, load_n(source + j, width), width); });
  }
}

void zero_rows(const Tensor& x) {
  for (int64_t i = 0; i < x.rows; ++i) std::fill_n(x.row<float>(i), x.cols, 0.0f);
}

/// All queries of one key/value head of one sequence: dk, dv, and dq of the heads that share it.
template <class T>
void backward_head(Stream& stream, const HeadViews& views, const Mask& mask, int64_t kv_head, const Tensor& dy,
                   const Tensor& qkv, const Tensor& y, const Tensor& log_sum_exp, const AttentionScratch::Part& scratch,
                   const Tensor& dqkv) {
  const AttentionShape& shape = views.shape;
  const int64_t group = shape.heads / shape.kv_heads, length = shape.length;
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  float* delta = scratch.delta.as<float>();  // rowsum(dy * y): what the softmax's gradient subtracts
  for (int64_t h = 0; h < group; ++h) {
    const Tensor gradient = views.query(dy, kv_head * group + h, 0, length),
                 output = views.query(y, kv_head * group + h, 0, length);
    for (int64_t i = 0; i < length; ++i)
      delta[h * length + i] = dot(gradient.row<T>(i), output.row<T>(i), shape.head_dim);
  }
  const auto accumulate = [&](const Tensor& a, Transpose transpose, const Tensor& b, const Tensor& into) {
    gemm_in_task(stream, a, transpose, b, Transpose::no, into, into);
  };
  zero_rows(scratch.dquery);

  for (int64_t key = 0; key < length; key += key_block) {
    const int64_t keys = std::min(key_block, length - key);
    const Tensor dk = scratch.dkey.slice_rows(0, keys), dv = scratch.dvalue.slice_rows(0, keys);
    zero_rows(dk);
    zero_rows(dv);
    for (int64_t h = 0; h < group; ++h) {
      const int64_t head = kv_head * group + h;
      for (int64_t first = key / query_block * query_block; first < length; first += query_block) {
        if (mask.first_block(first) > key) break;  // starts never decrease: no later query sees these keys
        const int64_t count = std::min(query_block, length - first);
        const int64_t seen = std::min(keys, first + count - key);  // the block's later keys are masked for all queries
        const Tensor q = views.query(qkv, head, first, count), gradient = views.query(dy, head, first, count);
        const Tensor k = views.key(qkv, kv_head, key, seen), v = views.value(qkv, kv_head, key, seen);
        const Tensor scores = scratch.scores.slice_rows(0, count).slice_cols(0, seen);
        const Tensor probabilities = scratch.probabilities.slice_rows(0, count).slice_cols(0, seen);
        const Tensor dscores = scratch.dscores.slice_rows(0, count).slice_cols(0, seen);
        const float* lse = log_sum_exp.row<float>(head) + views.first_token + first;
        const auto visible = [&](int64_t i) { return mask.visible(first + i, key, seen); };
        gemm_in_task(stream, q, Transpose::no, k, Transpose::yes, scores);
        for (int64_t i = 0; i < count; ++i)
          probabilities_row(scores.row<float>(i), probabilities.row<T>(i), visible(i), seen, scale, lse[i]);
        accumulate(probabilities, Transpose::yes, gradient, dv.slice_rows(0, seen));
        gemm_in_task(stream, gradient, Transpose::no, v, Transpose::yes, scores);
        for (int64_t i = 0; i < count; ++i)
          dscores_row(scores.row<float>(i), probabilities.row<T>(i), dscores.row<T>(i), visible(i), seen, scale,
                      delta[h * length + first + i]);
        accumulate(dscores, Transpose::no, k, scratch.dquery.slice_rows(h * length + first, count));
        accumulate(dscores, Transpose::yes, q, dk.slice_rows(0, seen));
      }
    }
    copy_rows<T>(dk, views.key(dqkv, kv_head, key, keys));
    copy_rows<T>(dv, views.value(dqkv, kv_head, key, keys));
  }
  for (int64_t h = 0; h < group; ++h)
    copy_rows<T>(scratch.dquery.slice_rows(h * length, length), views.query(dqkv, kv_head * group + h, 0, length));
}

/// Of one product of all queries with the keys that they see (half of the square), such as q k^T.
double product_operations(const AttentionShape& shape) {
  return static_cast<double>(shape.tokens()) * static_cast<double>(shape.length + 1) *
         static_cast<double>(shape.query_width());
}

}  // namespace

AttentionScratch::AttentionScratch(Arena& arena, const AttentionShape& shape, DType type, int threads, bool training) {
  const int64_t queries = std::min(query_block, shape.length), keys = std::min(key_block, shape.length);
  for (int thread = 0; thread < threads; ++thread) {
    Part part;
    part.scores = arena.take(DType::f32, queries, keys);
    part.probabilities = arena.take(type, queries, keys);
    part.output = arena.take(DType::f32, queries, shape.head_dim);
    if (training) {
      part.dscores = arena.take(type, queries, keys);
      part.delta = arena.take(DType::f32, 1, shape.heads / shape.kv_heads * shape.length);
      part.dquery = arena.take(DType::f32, shape.heads / shape.kv_heads * shape.length, shape.head_dim);
      part.dkey = arena.take(DType::f32, keys, shape.head_dim);
      part.dvalue = arena.take(DType::f32, keys, shape.head_dim);
    }
    parts_.push_back(part);
  }
}

void attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                       std::span<const int32_t> document_starts, const AttentionScratch& scratch, const Tensor& y,
                       const Tensor& log_sum_exp) {
  const KernelTimer timer(stream, "attention_forward", {qkv, y, log_sum_exp}, 2 * product_operations(shape));
  const int64_t blocks = (shape.length + query_block - 1) / query_block;
  with_operand_type(qkv.dtype, [&](auto type) {
    parallel_tasks(stream, shape.sequences * shape.heads * blocks, [&](int64_t task, int64_t thread) {
      // Late blocks see the most keys; they go first, so that the threads end together.
      const int64_t block = blocks - 1 - task / (shape.sequences * shape.heads);
      const int64_t sequence = task / shape.heads % shape.sequences, head = task % shape.heads;
      const HeadViews views{shape, sequence * shape.length};
      const int64_t first = block * query_block, count = std::min(query_block, shape.length - first);
      forward_block<decltype(type)>(stream, views, mask_of(shape, document_starts, sequence), head, first, count, qkv,
                                    scratch.part(thread), y, log_sum_exp.row<float>(head) + views.first_token);
    });
  });
}

void attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& dy, const Tensor& qkv,
                        std::span<const int32_t> document_starts, const Tensor& y, const Tensor& log_sum_exp,
                        const AttentionScratch& scratch, const Tensor& dqkv) {
  const KernelTimer timer(stream, "attention_backward", {dy, qkv, y, log_sum_exp, dqkv}, 5 * product_operations(shape));
  with_operand_type(qkv.dtype, [&](auto type) {
    parallel_tasks(stream, shape.sequences * shape.kv_heads, [&](int64_t task, int64_t thread) {
      const int64_t sequence = task / shape.kv_heads;
      backward_head<decltype(type)>(stream, {shape, sequence * shape.length}, mask_of(shape, document_starts, sequence),
                                    task % shape.kv_heads, dy, qkv, y, log_sum_exp, scratch.part(thread), dqkv);
    });
  });
}

}  // namespace nibble
