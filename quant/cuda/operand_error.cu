// How far operands are from what they stand for. Sums have the host's order: of its tiles (cpu/tile.hpp), then of
// these.
#include <vector>

#include "quant/cpu/tile.hpp"
#include "quant/cuda/kernels.hpp"
#include "quant/cuda/tile.hpp"
#include "tensor/cuda/stream_memory.hpp"

namespace nibble::cuda {
namespace {

constexpr int log_width = 4, chunk = 128;
static_assert(1 << log_width == tile_width);

struct ErrorTask {
  Tiling tiling;  ///< the host's
  TileShape shape;
  TileSource exact, quantized;
  OperandError* of_tiles;
};

/// A thread for each sum.
__global__ void sum_errors(ErrorTask task) {
  float* const x = shared_memory<float>();
  float* const q = x + TileShape::padded(chunk << log_width);
  for (int64_t index = blockIdx.x; index < task.tiling.size(); index += gridDim.x) {
    const Tile tile = task.tiling.tile(index, nullptr);
    double sum = 0;
    int64_t underflows = 0;
    for (int64_t done = 0; done < tile.depth; done += chunk) {
      const auto count = static_cast<int>(tile.depth - done < chunk ? tile.depth - done : chunk);
      const TilePlace place(tile.outer, tile.first + done, static_cast<int>(tile.width), count);
      __syncthreads();
      task.exact.fill(task.shape, place, {}, x);
      task.quantized.fill(task.shape, place, {}, q);
      __syncthreads();
      if (threadIdx.x > 4) continue;
      for (int i = 0; i < count << log_width; ++i) {
        if ((i & (tile_width - 1)) >= tile.width) continue;
        const double a = x[i + (i >> 5)], b = q[i + (i >> 5)];
        if (threadIdx.x == 0) sum += (a - b) * (a - b);
        else if (threadIdx.x == 1) sum += a * a;
        else if (threadIdx.x == 2) sum += b * b;
        else if (threadIdx.x == 3) sum += a * b;
        else underflows += b == 0 && a != 0;
      }
    }
    OperandError& to = task.of_tiles[index];
    if (threadIdx.x == 0) to.squared_error = sum;
    else if (threadIdx.x == 1) to.squared = sum;
    else if (threadIdx.x == 2) to.squared_operand = sum;
    else if (threadIdx.x == 3) to.product = sum;
    else if (threadIdx.x == 4) to.underflows = underflows, to.elements = tile.depth * tile.width;
  }
}

struct Subtract {
  TileSource x;
  const float* row_scale;
  Rows<float> from;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group values, rest = from.load(row, col, count);
    x.load(row, col, count, x.factor.read() * (row_scale ? row_scale[row] : 1.0f), values.values);
    for (int j = 0; j < group_elements; ++j) rest[j] -= values[j];
    from.store(row, col, count, rest);
  }
};

}  // namespace

OperandError operand_error(Stream& stream, const Operand& x, const Quantization& how, const Operand& quantized) {
  constexpr unsigned threads = 256;
  const Tiling tiling(x.values, how.axis, chunk_length(how));
  const auto tiles = static_cast<size_t>(tiling.size());
  if (tiles == 0) return {};
  Operand exact = x;
  if (how.hadamard) {
    auto* const memory = stream.memory().working<float>(StreamMemory::copies, static_cast<size_t>(x.values.size()));
    exact = {.values = {DType::f32, memory, x.values.rows, x.values.cols, x.values.cols, Place::device}};
    Quantization rotation = how;
    rotation.quantizer = {};
    cuda::quantize(stream, x, rotation, 0, exact.values, {}, {}, nullptr);
  }
  auto* const of_tiles = stream.memory().working<OperandError>(StreamMemory::sums, tiles);
  const TileShape shape(x.values, how.axis, chunk, log_width);
  launch(stream.queue(), {static_cast<unsigned>(std::min<size_t>(tiles, 1 << 30))}, {threads},
         2 * static_cast<size_t>(shape.floats()) * sizeof(float), sum_errors,
         ErrorTask{tiling, shape, TileSource(exact), TileSource(quantized), of_tiles});
  std::vector<OperandError> parts(tiles);
  stream.queue().copy(parts.data(), of_tiles, tiles * sizeof(OperandError));
  stream.wait();
  return sum_of(parts);
}

void subtract(Stream& stream, const Operand& x, const Tensor& from) {
  for_each_group(stream, from.rows, from.cols,
                 Subtract{TileSource({.values = x.values, .factor = x.factor}), x.row_scale.on_device<float>(),
                          Rows<float>(from)});
}

}  // namespace nibble::cuda
