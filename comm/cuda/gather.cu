// Single elements from anywhere, side by side.
#include "comm/cuda/kernels.hpp"
#include "tensor/cuda/kernel.hpp"

namespace nibble::cuda {
namespace {

__global__ void gather_elements(const float* const* addresses, int64_t count, float* values) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) values[i] = *addresses[i];
}

}  // namespace

void gather(Stream& stream, const float* const* addresses, int64_t count, float* values) {
  constexpr unsigned threads = 128;
  const dim3 blocks{static_cast<unsigned>((count + threads - 1) / threads)};
  launch(stream.queue(), blocks, {threads}, 0, gather_elements, addresses, count, values);
}

}  // namespace nibble::cuda
