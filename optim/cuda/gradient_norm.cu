#include <algorithm>

#include "optim/cuda/blocks.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/cuda/norms.hpp"

namespace nibble::cuda {
namespace {

struct DeviceGradient {
  const void* values;
  bool narrow;
};

/// The squares of elements of one of sixteen lanes, of which each has every sixteenth; one after the other, so that
/// memory is read ahead.
template <class T>
__device__ double lane_squares(const T* values, int64_t count) {
  constexpr int ahead = 8;
  double squares = 0;
  int64_t i = threadIdx.x % square_lanes;
  for (; i + (ahead - 1) * int64_t{square_lanes} < count; i += ahead * int64_t{square_lanes}) {
    T read[ahead];
    for (int j = 0; j < ahead; ++j) read[j] = values[i + j * int64_t{square_lanes}];
    for (int j = 0; j < ahead; ++j) {
      const double value = static_cast<float>(read[j]);
      squares += value * value;
    }
  }
  for (; i < count; i += square_lanes) {
    const double value = static_cast<float>(values[i]);
    squares += value * value;
  }
  return squares;
}

constexpr unsigned threads = 256;

/// A half warp has a block of elements.
__global__ void __launch_bounds__(threads)
    sum_squares(StretchTable<DeviceGradient> table, int64_t blocks, double* sums) {
  const int64_t number = int64_t{blockIdx.x} * (blockDim.x / square_lanes) + threadIdx.x / square_lanes;
  double squares = 0;
  if (number < blocks) {
    const FoundBlock<DeviceGradient> block = find_block(table, number);
    const void* const values = block.subject.values;
    squares = block.subject.narrow ? lane_squares(static_cast<const bf16*>(values) + block.first, block.count)
                                   : lane_squares(static_cast<const float*>(values) + block.first, block.count);
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
