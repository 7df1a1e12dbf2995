#include "model/embedding.hpp"

#include "model/cpu/dispatch.hpp"
#include "model/cuda/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {

using simd::for_each_group, simd::load_n, simd::store_n;

EmbeddingScratch::EmbeddingScratch(Arena& arena, int64_t of_tokens) {
  if (arena.place() == Place::host) return;
  ids = arena.take(DType::i32, 2, of_tokens);
  tokens = arena.take(DType::i32, 2, of_tokens);
  counts = arena.take(DType::i32, (of_tokens + tile - 1) / tile, digits);
}

void embedding_forward(Stream& stream, std::span<const int32_t> ids, const Tensor& table, const Tensor& x) {
  const KernelTimer timer(stream, "embedding_forward", {x, Tensor(table.dtype, nullptr, x.rows, x.cols)});
  if (stream.on_device()) return cuda::embedding_forward(stream, ids, table, x);
  with_operand_type(table.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(stream, x.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* row = table.row<T>(ids[static_cast<size_t>(t)]);
        float* into = x.row<float>(t);
        for_each_group(x.cols, [&](int64_t i, int64_t count) { store_n(into + i, load_n(row + i, count), count); });
      }
    });
  });
}

void embedding_backward(Stream& stream, std::span<const int32_t> ids, const Tensor& dx, const EmbeddingScratch& scratch,
                        const Tensor& dtable) {
  const KernelTimer timer(stream, "embedding_backward", {dx, dx, dx});
  if (stream.on_device()) return cuda::embedding_backward(stream, ids, dx, scratch, dtable);
  parallel_for(stream, dx.cols, simd::lanes, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < dx.rows; ++t) {
      const float* from = dx.row<float>(t) + begin;
      float* into = dtable.row<float>(ids[static_cast<size_t>(t)]) + begin;
      for_each_group(end - begin, [&](int64_t i, int64_t count) {
        store_n(into + i, load_n(into + i, count) + load_n(from + i, count), count);
      });
    }
  });
}

}  // namespace nibble
