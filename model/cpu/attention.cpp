#include "model/attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "model/cpu/dispatch.hpp"
#include "model/cuda/kernels.hpp"
#include "model/cudnn/cudnn_attention.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::for_each_group, simd::load_n, simd::splat, simd::store_n;

// A block's scores (fp32), probabilities and operands take 128 x 256 x (4 + 2 + 2) B + 3 x 256 x 128 x 2 B < 0.5 MB
// at hd = 128, dk and dv as much again: beside the GEMM's packed blocks they stay in a 2 MB L2 cache.
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

/// Tasks of several threads raise one value, in whatever order.
void raise(float& largest, float value) {
  std::atomic_ref<float> shared(largest);
  float before = shared.load(std::memory_order_relaxed);
  while (before < value && !shared.compare_exchange_weak(before, value, std::memory_order_relaxed)) {
  }
}

/// The queries [first, first + count) of one head, against all keys that they see.
template <class T>
void forward_block(Stream& stream, const HeadViews& views, const Mask& mask, int64_t head, int64_t first, int64_t count,
                   const Tensor& qkv, const AttentionScratch::Part& scratch, const Tensor& y, float* log_sum_exp,
                   std::span<float> max_logits) {
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
  if (!max_logits.empty()) raise(max_logits[static_cast<size_t>(head)], *std::max_element(maximum, maximum + count));
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

/// The order in which blocks of keys add to the gradient of a block of queries: ascending, whichever threads they run
/// on. Tasks begin in ascending order too, so the one that is waited for is always under way.
class KeyOrder {
 public:
  KeyOrder(const AttentionShape& shape, int64_t query_blocks)
      : query_blocks_(query_blocks), done_(static_cast<size_t>(shape.sequences * shape.kv_heads * query_blocks)) {}

  /// Waits until `turn` blocks of keys have been added, then adds. After a failure elsewhere nobody waits.
  template <class Add>
  void add(int64_t sequence_and_head, int64_t block, int64_t turn, Add&& add_block) {
    std::atomic<int64_t>& done = done_[static_cast<size_t>(sequence_and_head * query_blocks_ + block)];
    for (int spins = 0; done.load(std::memory_order_acquire) != turn; ++spins) {
      if (failed_.load(std::memory_order_relaxed)) return;
      if (spins > 1000) std::this_thread::yield();
    }
    add_block();
    done.store(turn + 1, std::memory_order_release);
  }
  void fail() { failed_ = true; }

 private:
  int64_t query_blocks_;
  std::vector<std::atomic<int64_t>> done_;
  std::atomic<bool> failed_ = false;
};

/// What the tasks of one backward pass share.
struct Backward {
  const AttentionShape& shape;
  const Tensor &dy, &qkv, &log_sum_exp, &delta, &dquery, &dqkv;
  KeyOrder order;
};

/// One block of keys of one key/value head: dk, dv, and its part of dq of the heads that share it.
template <class T>
void backward_keys(Stream& stream, Backward& pass, const Mask& mask, int64_t sequence, int64_t kv_head, int64_t key,
                   const AttentionScratch::Part& scratch) {
  const AttentionShape& shape = pass.shape;
  const HeadViews views{shape, sequence * shape.length};
  const int64_t group = shape.heads / shape.kv_heads, length = shape.length, keys = std::min(key_block, length - key),
                queries = std::min(query_block, length);
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const Tensor dk = scratch.dkey.slice_rows(0, keys), dv = scratch.dvalue.slice_rows(0, keys);
  for (const Tensor& sum : {dk, dv})
    for (int64_t i = 0; i < keys; ++i) std::fill_n(sum.row<float>(i), shape.head_dim, 0.0f);

  for (int64_t first = key / query_block * query_block; first < length; first += query_block) {
    if (mask.first_block(first) > key) break;  // starts never decrease: no later query sees these keys
    const int64_t count = std::min(query_block, length - first);
    const int64_t seen = std::min(keys, first + count - key);  // the block's later keys are masked for all queries
    const bool first_keys = mask.first_block(first) == key, last_keys = first + count <= key + keys;
    const Tensor k = views.key(pass.qkv, kv_head, key, seen), v = views.value(pass.qkv, kv_head, key, seen);
    const Tensor scores = scratch.scores.slice_rows(0, count).slice_cols(0, seen);
    const Tensor probabilities = scratch.probabilities.slice_rows(0, count).slice_cols(0, seen);
    const auto visible = [&](int64_t i) { return mask.visible(first + i, key, seen); };
    const Tensor dk_seen = dk.slice_rows(0, seen), dv_seen = dv.slice_rows(0, seen);
    for (int64_t h = 0; h < group; ++h) {
      const int64_t head = kv_head * group + h;
      const Tensor q = views.query(pass.qkv, head, first, count), dy = views.query(pass.dy, head, first, count);
      const Tensor dscores = scratch.dscores.slice_rows(h * queries, count).slice_cols(0, seen);
      const float* lse = pass.log_sum_exp.row<float>(head) + views.first_token + first;
      const float* delta = pass.delta.row<float>(head) + views.first_token + first;
      gemm_in_task(stream, q, Transpose::no, k, Transpose::yes, scores);
      for (int64_t i = 0; i < count; ++i)
        probabilities_row(scores.row<float>(i), probabilities.row<T>(i), visible(i), seen, scale, lse[i]);
      gemm_in_task(stream, probabilities, Transpose::yes, dy, Transpose::no, dv_seen, dv_seen);
      gemm_in_task(stream, dy, Transpose::no, v, Transpose::yes, scores);
      for (int64_t i = 0; i < count; ++i)
        dscores_row(scores.row<float>(i), probabilities.row<T>(i), dscores.row<T>(i), visible(i), seen, scale,
                    delta[i]);
      gemm_in_task(stream, dscores, Transpose::yes, q, Transpose::no, dk_seen, dk_seen);
    }
    const int64_t turn = (key - mask.first_block(first)) / key_block;
    pass.order.add(sequence * shape.kv_heads + kv_head, first / query_block, turn, [&] {
      for (int64_t h = 0; h < group; ++h) {
        const int64_t head = kv_head * group + h;
        const Tensor dq = views.query(pass.dquery, head, first, count);
        gemm_in_task(stream, scratch.dscores.slice_rows(h * queries, count).slice_cols(0, seen), Transpose::no, k,
                     Transpose::no, dq, first_keys ? Tensor() : dq);
        if (last_keys) copy_rows<T>(dq, views.query(pass.dqkv, head, first, count));
      }
    });
  }
  copy_rows<T>(dk, views.key(pass.dqkv, kv_head, key, keys));
  copy_rows<T>(dv, views.value(pass.dqkv, kv_head, key, keys));
}

/// delta[H, tokens] = rowsum(dy * y) of each head: what the softmax's gradient subtracts.
template <class T>
void row_products(Stream& stream, const AttentionShape& shape, const Tensor& dy, const Tensor& y, const Tensor& delta) {
  parallel_for(stream, shape.tokens(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t head = 0; head < shape.heads; ++head)
        delta.row<float>(head)[t] =
            dot(dy.row<T>(t) + head * shape.head_dim, y.row<T>(t) + head * shape.head_dim, shape.head_dim);
  });
}

/// Of one product of all queries with the keys that they see (half of the square), such as q k^T.
double product_operations(const AttentionShape& shape) {
  return static_cast<double>(shape.tokens()) * static_cast<double>(shape.length + 1) *
         static_cast<double>(shape.query_width());
}

void check_head_dim(int64_t head_dim) {
  if (head_dim <= largest_device_head_dim) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = "attention on a GPU has no kernel for heads of so many channels",
               .seen = "head_dim " + std::to_string(head_dim),
               .allowed = "1 to " + std::to_string(largest_device_head_dim),
               .next = "choose more heads of fewer channels, or train on the CPU"});
}

void check_library(const AttentionShape& shape, DType type) {
  const auto refuse = [](const char* what, const std::string& seen, const std::string& allowed) {
    throw Error({.kind = ErrorKind::configuration,
                 .what = what,
                 .seen = seen,
                 .allowed = allowed,
                 .next = "set run.gpu_attention=own"});
  };
  if (type != DType::bf16) refuse("cuDNN's attention is for other operands", std::string(name(type)), "bf16");
  if (shape.head_dim % 8 != 0)
    refuse("cuDNN has no attention for heads of so many channels", "head_dim " + std::to_string(shape.head_dim),
           "multiples of 8");
  if (const std::string missing = attention_library().missing; !missing.empty())
    refuse("attention by cuDNN is not there", missing, "kernels of our own");
}

}  // namespace

AttentionLibrary attention_library() {
  if (cuda::why_no_cudnn == nullptr)
    return {.version = "", .missing = "this program was built without cuDNN's frontend"};
  const std::string missing = cuda::why_no_cudnn();
  return {.version = missing.empty() ? cuda::cudnn_version() : "", .missing = missing};
}

AttentionScratch::AttentionScratch(Arena& arena, const AttentionShape& shape, DType type, const Stream& stream,
                                   bool training, AttentionBy by) {
  by_library_ = stream.on_device() && by == AttentionBy::cudnn;
  if (stream.on_device()) check_head_dim(shape.head_dim);
  if (by_library_) {
    check_library(shape, type);
    const size_t bytes = cuda::cudnn_attention_bytes(stream, shape, training);
    working_ = arena.take(DType::u8, 1, static_cast<int64_t>(bytes));
    return;
  }
  if (training) delta_ = arena.take(DType::f32, shape.heads, shape.tokens());
  if (stream.on_device()) return;
  if (training) dquery_ = arena.take(DType::f32, shape.tokens(), shape.query_width());
  const int64_t queries = std::min(query_block, shape.length), keys = std::min(key_block, shape.length);
  for (int thread = 0; thread < stream.threads(); ++thread) {
    Part part;
    part.scores = arena.take(DType::f32, queries, keys);
    part.probabilities = arena.take(type, queries, keys);
    part.output = arena.take(DType::f32, queries, shape.head_dim);
    if (training) {
      part.dscores = arena.take(type, shape.heads / shape.kv_heads * queries, keys);
      part.dkey = arena.take(DType::f32, keys, shape.head_dim);
      part.dvalue = arena.take(DType::f32, keys, shape.head_dim);
    }
    parts_.push_back(part);
  }
}

void attention_forward(Stream& stream, const AttentionShape& shape, const Tensor& qkv,
                       std::span<const int32_t> document_starts, const AttentionScratch& scratch, const Tensor& y,
                       const Tensor& log_sum_exp, std::span<float> max_logits) {
  const KernelTimer timer(stream, "attention_forward", {qkv, y, log_sum_exp}, 2 * product_operations(shape));
  if (scratch.by_library()) return cuda::cudnn_attention_forward(stream, shape, qkv, scratch.working(), y, log_sum_exp);
  if (stream.on_device())
    return cuda::attention_forward(stream, shape, qkv, document_starts, scratch, y, log_sum_exp, max_logits);
  const int64_t blocks = (shape.length + query_block - 1) / query_block;
  with_operand_type(qkv.dtype, [&](auto type) {
    parallel_tasks(stream, shape.sequences * shape.heads * blocks, [&](int64_t task, int64_t thread) {
      // Late blocks see the most keys; they go first, so that the threads end together.
      const int64_t block = blocks - 1 - task / (shape.sequences * shape.heads);
      const int64_t sequence = task / shape.heads % shape.sequences, head = task % shape.heads;
      const HeadViews views{shape, sequence * shape.length};
      const int64_t first = block * query_block, count = std::min(query_block, shape.length - first);
      forward_block<decltype(type)>(stream, views, mask_of(shape, document_starts, sequence), head, first, count, qkv,
                                    scratch.part(thread), y, log_sum_exp.row<float>(head) + views.first_token,
                                    max_logits);
    });
  });
}

void attention_backward(Stream& stream, const AttentionShape& shape, const Tensor& dy, const Tensor& qkv,
                        std::span<const int32_t> document_starts, const Tensor& y, const Tensor& log_sum_exp,
                        const AttentionScratch& scratch, const Tensor& dqkv) {
  const KernelTimer timer(stream, "attention_backward", {dy, qkv, y, log_sum_exp, dqkv}, 5 * product_operations(shape));
  if (scratch.by_library())
    return cuda::cudnn_attention_backward(stream, shape, dy, qkv, y, log_sum_exp, scratch.working(), dqkv);
  if (stream.on_device())
    return cuda::attention_backward(stream, shape, dy, qkv, document_starts, y, log_sum_exp, scratch, dqkv);
  const int64_t key_blocks = (shape.length + key_block - 1) / key_block,
                query_blocks = (shape.length + query_block - 1) / query_block;
  Backward pass{shape, dy, qkv, log_sum_exp, scratch.delta(), scratch.dquery(), dqkv, KeyOrder(shape, query_blocks)};
  with_operand_type(qkv.dtype, [&](auto type) {
    using T = decltype(type);
    row_products<T>(stream, shape, dy, y, pass.delta);
    const int64_t heads = shape.sequences * shape.kv_heads;
    parallel_tasks(stream, heads * key_blocks, [&](int64_t task, int64_t thread) {
      // Early keys are seen by the most queries; they go first, so that the threads end together.
      const int64_t key = task / heads * key_block, sequence = task % heads / shape.kv_heads;
      try {
        backward_keys<T>(stream, pass, mask_of(shape, document_starts, sequence), sequence, task % shape.kv_heads, key,
                         scratch.part(thread));
      } catch (...) {
        pass.order.fail();
        throw;
      }
    });
  });
}

}  // namespace nibble
