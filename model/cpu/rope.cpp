#include "model/rope.hpp"

#include "model/cpu/dispatch.hpp"
#include "model/cuda/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {

using simd::f32x, simd::for_each_group, simd::load_n, simd::store_n;

void rope(Stream& stream, const RopeTable& table, int64_t heads, int64_t head_dim, int64_t length,
          int64_t first_position, RopeDirection direction, const Tensor& x) {
  const Tensor rotated = x.slice_cols(0, heads * head_dim);
  const KernelTimer timer(stream, "rope", {rotated, rotated});
  if (stream.on_device()) return cuda::rope(stream, table, heads, head_dim, length, first_position, direction, x);
  const int64_t half = head_dim / 2;
  const float sign = direction == RopeDirection::forward ? 1.0f : -1.0f;
  with_operand_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(stream, x.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const float* cos = table.cos(first_position + t % length);
        const float* sin = table.sin(first_position + t % length);
        for (int64_t h = 0; h < heads; ++h) {
          T* first = x.row<T>(t) + h * head_dim;
          T* second = first + half;
          for_each_group(half, [&](int64_t i, int64_t count) {
            const f32x a = load_n(first + i, count), b = load_n(second + i, count);
            const f32x c = load_n(cos + i, count), s = load_n(sin + i, count) * sign;
            store_n(first + i, a * c - b * s, count);
            store_n(second + i, b * c + a * s, count);
          });
        }
      }
    });
  });
}

}  // namespace nibble
