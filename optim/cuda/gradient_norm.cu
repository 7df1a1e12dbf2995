#include <algorithm>

#include "optim/cuda/blocks.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/cuda/norms.hpp"
#include "tensor/cuda/square_lanes.hpp"

namespace nibble::cuda {
namespace {

struct DeviceGradient {
  const void* values;
  bool narrow;
};

constexpr unsigned threads = 256;

/// A half warp has a block of elements.
__global__ void __launch_bounds__(threads)
    sum_squares(StretchTable<DeviceGradient> table, int64_t blocks, double* sums) {
  const int64_t number = int64_t{blockIdx.x} * (blockDim.x / square_lanes) + threadIdx.x / square_lanes;
  double squares = 0;
  if (number < blocks) {
    const FoundBlock<DeviceGradient> block = find_block(table, number);
    const auto squares_of = [&](const auto* values) {
      return lane_squares(block.count, [&](int64_t i) { return static_cast<float>(values[block.first + i]); });
    };
    const void* const values = block.subject.values;
    squares = block.subject.narrow ? squares_of(static_cast<const bf16*>(values))
                                   : squares_of(static_cast<const float*>(values));
  }
  squares = sum_of_square_lanes(squares);
  if (number < blocks && threadIdx.x % square_lanes == 0) sums[number] = squares;
}

}  // namespace

void queue_square_sums(Stream& stream, std::span<const Tensor> gradients, std::span<const TensorBlock> blocks,
                       double* sums) {
  if (blocks.empty()) return;
  const StretchTable<DeviceGradient> table = send_stretches(stream, blocks, [&](int64_t i) {
    const Tensor& gradient = gradients[static_cast<size_t>(i)];
    return DeviceGradient{gradient.data, gradient.dtype == DType::bf16};
  });
  constexpr size_t of_block = threads / square_lanes;
  launch(stream.queue(), {static_cast<unsigned>((blocks.size() + of_block - 1) / of_block)}, {threads}, 0, sum_squares,
         table, static_cast<int64_t>(blocks.size()), sums);
}

void gradient_square_sums(Stream& stream, std::span<const Tensor> gradients, std::span<const TensorBlock> blocks,
                          std::span<double> sums) {
  const Staged<double> back = stream.staging().take<double>(blocks.size());
  queue_square_sums(stream, gradients, blocks, back.device);
  stream.queue().copy(back.host, back.device, blocks.size() * sizeof(double));
  stream.wait();
  std::copy_n(back.host, blocks.size(), sums.begin());
}

}  // namespace nibble::cuda
