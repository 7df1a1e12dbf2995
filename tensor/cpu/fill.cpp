#include "tensor/fill.hpp"

#include <algorithm>
#include <cassert>

#include "tensor/convert.hpp"
#include "tensor/cuda/kernels.hpp"
#include "tensor/profile.hpp"

namespace nibble {

void fill(Stream& stream, const Tensor& x, float value) {
  const KernelTimer timer(stream, "fill", {x});
  if (stream.on_device()) return cuda::fill(stream, x, value);
  const int64_t rows_at_once = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, x.cols));
  parallel_for(stream, x.rows, rows_at_once, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::fill_n(x.row<float>(i), x.cols, value);
  });
}

void fill_normal(Stream& stream, const RandomStream& random, float deviation, const Tensor& x) {
  assert(x.contiguous());
  if (stream.on_device()) {  // logarithms and cosines are the host's, so that runs begin alike everywhere
    const OwnedTensor there(DType::f32, x.rows, x.cols);
    fill_normal(stream.host(), random, deviation, there);
    copy(stream, there, x);
    return stream.wait();
  }
  float* values = x.as<float>();
  parallel_for(stream, x.size(), 2, [&](int64_t begin, int64_t end) {
    for (int64_t element = begin; element < end; element += 2) {
      const std::array<float, 2> normals = random.normal_pair(static_cast<uint64_t>(element) / 2);
      for (int64_t i = element; i < std::min(element + 2, end); ++i)
        values[i] = deviation * normals[static_cast<size_t>(i - element)];
    }
  });
}

}  // namespace nibble
