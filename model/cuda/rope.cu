#include "model/cuda/kernels.hpp"
#include "tensor/cuda/elements.hpp"

namespace nibble::cuda {
namespace {

/// Of columns that count pairs: each head's half, rounded up to whole groups.
template <class T>
struct Rotate {
  Rows<T> x;
  Rows<float> cos, sin;
  int half, padded_half;
  unsigned length;
  int64_t first_position;
  float sign;

  __device__ void operator()(int64_t row, int64_t pair, int) const {
    const int head = static_cast<int>(pair) / padded_half, i = static_cast<int>(pair) - head * padded_half;
    const int count = half - i < group_elements ? half - i : group_elements;
    const int64_t position = first_position + static_cast<unsigned>(row) % length;
    const int64_t first = int64_t{head} * 2 * half + i, second = first + half;
    const Group a = x.load(row, first, count), b = x.load(row, second, count);
    const Group c = cos.load(position, i, count), s = sin.load(position, i, count);
    Group of_first, of_second;
    for (int j = 0; j < group_elements; ++j) {
      const float signed_sin = s[j] * sign;
      of_first[j] = a[j] * c[j] - b[j] * signed_sin;
      of_second[j] = b[j] * c[j] + a[j] * signed_sin;
    }
    x.store(row, first, count, of_first);
    x.store(row, second, count, of_second);
  }
};

}  // namespace

void rope(Stream& stream, const RopeTable& table, int64_t heads, int64_t head_dim, int64_t length,
          int64_t first_position, RopeDirection direction, const Tensor& x) {
  const int64_t half = head_dim / 2, padded_half = (half + group_elements - 1) / group_elements * group_elements;
  const float sign = direction == RopeDirection::forward ? 1.0f : -1.0f;
  with_float_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(
        stream, x.rows, heads * padded_half,
        Rotate<T>{Rows<T>(x, half), Rows<float>(table.cos()), Rows<float>(table.sin()), static_cast<int>(half),
                  static_cast<int>(padded_half), static_cast<unsigned>(length), first_position, sign});
  });
}

}  // namespace nibble::cuda
