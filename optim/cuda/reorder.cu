#include "optim/cuda/kernels.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/staging.hpp"

namespace nibble::cuda {
namespace {

struct ReorderRows {
  Rows<float> from, to;
  const int64_t* order;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    to.store(row, col, count, from.load(order[row], col, count));
  }
};

struct ReorderColumns {
  Rows<float> from, to;
  const int64_t* order;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group group{};
    for (int j = 0; j < count; ++j) group[j] = from.row(row)[order[col + j]];
    to.store(row, col, count, group);
  }
};

}  // namespace

void reorder(Stream& stream, const Tensor& from, Reordered which, std::span<const int64_t> order, const Tensor& to) {
  const int64_t* const there = stream.staging().send(order);
  const Rows<float> source(from), target(to);
  if (which == Reordered::rows) for_each_group(stream, to.rows, to.cols, ReorderRows{source, target, there});
  else for_each_group(stream, to.rows, to.cols, ReorderColumns{source, target, there});
}

}  // namespace nibble::cuda
