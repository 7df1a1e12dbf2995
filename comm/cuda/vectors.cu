// Sums and differences of vectors, and the squares of their blocks.
#include "comm/cuda/kernels.hpp"
#include "comm/device_row.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/cuda/square_lanes.hpp"

namespace nibble::cuda {
namespace {

Rows<float> row(std::span<const float> vector) { return Rows<float>(device_row(vector)); }

/// to = a + sign b; the product is exact.
struct AddSigned {
  Rows<float> a, b, to;
  float sign;

  __device__ void operator()(int64_t, int64_t first, int count) const {
    Group sum = a.load(0, first, count);
    const Group addend = b.load(0, first, count);
    for (int j = 0; j < group_elements; ++j) sum[j] += sign * addend[j];
    to.store(0, first, count, sum);
  }
};

constexpr unsigned threads = 256;

/// A half warp has a block.
template <int vectors>
__global__ void __launch_bounds__(threads) square_blocks_of(SquaredVectors of, int64_t blocks, double* sums) {
  const int64_t number = int64_t{blockIdx.x} * (blockDim.x / square_lanes) + threadIdx.x / square_lanes;
  double squares = 0;
  if (number < blocks) {
    const int64_t first = number * square_block, left = of.elements - first;
    squares = lane_squares(left < square_block ? left : square_block, [&](int64_t i) {
      const int64_t element = first + i;
      double value = of.x[element];
      if constexpr (vectors == 2) value -= static_cast<double>(of.y[element]);
      if constexpr (vectors == 3)
        value = value - 2.0 * static_cast<double>(of.y[element]) + static_cast<double>(of.z[element]);
      return value;
    });
  }
  squares = sum_of_square_lanes(squares);
  if (number < blocks && threadIdx.x % square_lanes == 0) sums[number] = squares;
}

}  // namespace

void plus(Stream& stream, std::span<const float> a, std::span<const float> b, std::span<float> to) {
  for_each_group(stream, 1, std::ssize(to), AddSigned{row(a), row(b), row(to), 1.0f});
}

void minus(Stream& stream, std::span<const float> a, std::span<const float> b, std::span<float> to) {
  for_each_group(stream, 1, std::ssize(to), AddSigned{row(a), row(b), row(to), -1.0f});
}

void block_squares(Stream& stream, const SquaredVectors& of, double* sums) {
  const int64_t blocks = square_blocks(of.elements);
  if (blocks == 0) return;
  const auto kernel = !of.y ? square_blocks_of<1> : !of.z ? square_blocks_of<2> : square_blocks_of<3>;
  constexpr int64_t of_block = threads / square_lanes;
  launch(stream.queue(), {static_cast<unsigned>((blocks + of_block - 1) / of_block)}, {threads}, 0, kernel, of, blocks,
         sums);
}

}  // namespace nibble::cuda
