#include "quant/quantize.hpp"

#include <algorithm>

#include "quant/cuda/kernels.hpp"
#include "quant/cuda/largest.hpp"
#include "quant/cuda/quantize_kernels.hpp"
#include "quant/cuda/rotate.hpp"

namespace nibble::cuda {
namespace {

struct TransformTask {
  TileShape shape;
  TileSource from;
  OnTheWay way;
  DeviceRotation rotation;
  TileTarget to;
  int tile, spare;
};

__global__ void transform_tiles(TransformTask task) {
  float* const tile = shared_memory<float>();
  for_each_tile(task.shape, [&](const TilePlace& place) {
    task.from.fill(task.shape, place, task.way, tile);
    rotate_tile(task.rotation, task.shape, place.count, tile, tile + task.tile, task.spare);
    store_tile(task.to, task.shape, place, tile, [](float) { return int8_t{0}; });
  });
}

__global__ void largest_of_tiles(TransformTask task, float* of_blocks) {
  float* const tile = shared_memory<float>();
  float most = 0;
  for_each_tile(task.shape, [&](const TilePlace& place) {
    task.from.fill(task.shape, place, task.way, tile);
    rotate_tile(task.rotation, task.shape, place.count, tile, tile + task.tile, task.spare);
    for (int i = static_cast<int>(threadIdx.x); i < place.count << task.shape.log_width;
         i += static_cast<int>(blockDim.x))
      if ((i & (task.shape.width() - 1)) < place.width) most = larger_magnitude(most, magnitude(tile[i + (i >> 5)]));
  });
  leave_largest(most, of_blocks);
}

/// Without a rotation no tile is needed.
__global__ void largest_of_groups(TileSource from, int64_t rows, int64_t cols, float* of_blocks) {
  const float factor = from.factor.read();
  const int64_t of_row = (cols + group_elements - 1) / group_elements;
  float most = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * of_row;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = i / of_row, col = i % of_row * group_elements;
    const auto count = static_cast<int>(cols - col < group_elements ? cols - col : group_elements);
    float values[group_elements];
    from.load(row, col, count, factor, values);
    for (int j = 0; j < count; ++j) most = larger_magnitude(most, magnitude(values[j]));
  }
  leave_largest(most, of_blocks);
}

__global__ void largest_over_blocks(const float* of_blocks, unsigned count, float* to) {
  __shared__ float shared[warp_lanes];
  float most = 0;
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) most = larger_magnitude(most, of_blocks[i]);
  most = over_block(most, shared, LargerMagnitude());
  if (threadIdx.x == 0) *to = most;
}

__global__ void clear(unsigned long long* counts) { counts[threadIdx.x] = 0; }

/// What every kernel here starts with: x as tiles read it, rotated before where no tile can.
struct Prepared {
  Operand x;
  Quantization how;
  Arrangement arrangement;

  const TilePlan& plan() const { return *arrangement.plan; }
  TransformTask transform(const TileTarget& to) const {
    return {
        plan().shape, TileSource(x), arrangement.way, arrangement.rotation, to, static_cast<int>(plan().shape.floats()),
        plan().spare};
  }
};

Prepared prepare(Stream& stream, const Operand& x, const Quantization& how, bool transposed, const OnTheWay& way = {},
                 const TileParts& parts = {}, bool counts = false) {
  const Arrangement arrangement(stream, x.values, how, transposed, way, parts, counts);
  if (arrangement.plan) return {x, how, arrangement};
  const Operand rotated{.values = rotated_in_memory(stream, x, how.axis, arrangement.rotation, arrangement.way)};
  Quantization plain = how;
  plain.hadamard = nullptr;
  plain.signs = {};
  return {rotated, plain, Arrangement(stream, rotated.values, plain, false, {}, parts, counts)};
}

bool empty(const Operand& x) { return x.values.size() == 0; }

}  // namespace

float* largest_of_each_block(Stream& stream) {
  return stream.memory().working<float>(StreamMemory::sums, most_blocks_of_largest);
}

Scalar largest_of_blocks(Stream& stream, const float* of_blocks, unsigned blocks) {
  constexpr unsigned threads = 256;
  float* const to = stream.memory().number();
  launch(stream.queue(), {1}, {threads}, 0, largest_over_blocks, of_blocks, blocks, to);
  return Scalar::at(to);
}

Scalar tensor_statistic(Stream& stream, const Operand& x, const Quantization& how) {
  constexpr unsigned threads = 256;
  if (empty(x)) return 0;
  float* const of_blocks = largest_of_each_block(stream);
  unsigned blocks = 0;
  if (how.hadamard) {
    Quantization plain = how;
    plain.quantizer = {};
    const Prepared prepared = prepare(stream, x, plain, false);
    blocks = std::min(static_cast<unsigned>(prepared.plan().blocks()), most_blocks_of_largest);
    launch(stream.queue(), {blocks}, {prepared.plan().threads}, prepared.plan().bytes, largest_of_tiles,
           prepared.transform({}), of_blocks);
  } else {
    const int64_t groups = (x.values.cols + group_elements - 1) / group_elements * x.values.rows;
    blocks = static_cast<unsigned>(std::min<int64_t>((groups + threads - 1) / threads, most_blocks_of_largest));
    launch(stream.queue(), {blocks}, {threads}, 0, largest_of_groups, TileSource(x), x.values.rows, x.values.cols,
           of_blocks);
  }
  return largest_of_blocks(stream, of_blocks, blocks);
}

Operand quantize(Stream& stream, const Operand& x, const Quantization& how, const Scalar& statistic,
                 const Tensor& values, const Tensor& scale, const QuantizedParts& parts, QuantizationCounts* counts) {
  if (!how.quantizer.quantizes()) {
    if (empty(x)) return {.values = values};
    const Prepared prepared = prepare(stream, x, how, false);
    launch(stream.queue(), {static_cast<unsigned>(prepared.plan().blocks())}, {prepared.plan().threads},
           prepared.plan().bytes, transform_tiles, prepared.transform(values ? TileTarget(values) : TileTarget()));
    return {.values = values};
  }
  auto* const tallies = counts ? stream.memory().working<unsigned long long>(StreamMemory::sums, 2) : nullptr;
  if (tallies) launch(stream.queue(), {1}, {2}, 0, clear, tallies);
  const Prepared prepared = prepare(stream, x, how, false, {}, parts_of(parts), counts != nullptr);
  const Operand result = launch_quantizer(stream, TileSource(prepared.x), prepared.arrangement, prepared.how, statistic,
                                          values, scale, tallies);
  if (!counts) return result;
  unsigned long long seen[2] = {};
  stream.queue().copy(seen, tallies, sizeof seen);
  stream.wait();
  counts->elements += x.values.size();
  counts->clipped += static_cast<int64_t>(seen[0]);
  counts->masked += static_cast<int64_t>(seen[1]);
  return result;
}

void unrotate(Stream& stream, const Tensor& x, Axis axis, const Hadamard* hadamard, std::span<const float> signs,
              const Tensor& mask, const Tensor& y) {
  const Operand operand{.values = x};
  if (empty(operand)) return;
  OnTheWay way;
  way.mask = mask ? mask.on_device<uint8_t>() : nullptr;
  way.mask_stride = mask.stride;
  const Prepared prepared = prepare(stream, operand, {.axis = axis, .hadamard = hadamard, .signs = signs}, true, way);
  launch(stream.queue(), {static_cast<unsigned>(prepared.plan().blocks())}, {prepared.plan().threads},
         prepared.plan().bytes, transform_tiles, prepared.transform(TileTarget(y)));
}

}  // namespace nibble::cuda
