#include <algorithm>

#include "optim/cuda/kernels.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"

namespace nibble {

void reorder(Stream& stream, const Tensor& from, Reordered which, std::span<const int64_t> order, const Tensor& to) {
  const KernelTimer timer(stream, "reorder", {from, to});
  if (stream.on_device()) return cuda::reorder(stream, from, which, order, to);
  parallel_for(stream, to.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* const row = to.row<float>(i);
      if (which == Reordered::rows) std::copy_n(from.row<float>(order[static_cast<size_t>(i)]), to.cols, row);
      else
        for (int64_t j = 0; j < to.cols; ++j) row[j] = from.row<float>(i)[order[static_cast<size_t>(j)]];
    }
  });
}

}  // namespace nibble
