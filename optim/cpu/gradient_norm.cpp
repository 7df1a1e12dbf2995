#include "optim/cpu/blocks.hpp"
#include "optim/cuda/kernels.hpp"
#include "optim/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {

void gradient_square_sums(Stream& stream, std::span<const Tensor> gradients, std::span<const TensorBlock> blocks,
                          std::span<double> sums) {
  double bytes = 0;
  for (const Tensor& gradient : gradients) bytes += static_cast<double>(gradient.bytes());
  const KernelTimer timer(stream, "gradient_norm", bytes);
  if (stream.on_device()) return cuda::gradient_square_sums(stream, gradients, blocks, sums);
  parallel_for(stream, std::ssize(blocks), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const TensorBlock& block = blocks[i];
      with_type(gradients[block.tensor], [&]<class T>(T) {
        const T* const gradient = gradients[block.tensor].as<T>() + block.first;
        simd::f64x squares{};
        simd::for_each_group(block.count, [&](int64_t offset, int64_t count) {
          const simd::f64x value = simd::widen(simd::load_n(gradient + offset, count));
          squares += value * value;
        });
        sums[i] = simd::sum(squares);
      });
    }
  });
}

}  // namespace nibble
