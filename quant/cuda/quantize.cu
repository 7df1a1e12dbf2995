#include "quant/quantize.hpp"

#include <algorithm>
#include <limits>

#include "quant/cuda/kernels.hpp"
#include "quant/cuda/plan.hpp"
#include "quant/cuda/rotate.hpp"
#include "quant/cuda/tile_work.hpp"

namespace nibble::cuda {
namespace {

__device__ void add_tallies(const QuantizeTask& task, const Tallies& tallies) {
  __shared__ unsigned sums[warp_lanes];
  if (!task.counts) return;
  const unsigned clipped = over_block(tallies.clipped, sums, Plus()), masked = over_block(tallies.masked, sums, Plus());
  if (threadIdx.x != 0) return;
  atomic_add(task.counts, clipped);
  atomic_add(task.counts + 1, masked);
}

template <RoundingKernel kernel, bool correctable>
__global__ void quantize_tiles(QuantizeTask task) {
  const TileWork work(task);
  Tallies tallies;
  for_each_tile(task.shape, [&](const TilePlace& place) {
    work.load(place);
    work.quantize<kernel, correctable>(place, task.counts ? &tallies : nullptr);
    work.store(place);
  });
  add_tallies(task, tallies);
}

/// A strip of rows under scales of their own; those that have one chunk are read once.
template <RoundingKernel kernel>
__global__ void quantize_rows(QuantizeTask task) {
  const TileWork work(task);
  Tallies tallies;
  for (int64_t strip = blockIdx.x; strip < task.shape.strips; strip += gridDim.x) {
    TileWork::RowStatistic statistic(work);
    for (int64_t chunk = 0; chunk < task.shape.chunks; ++chunk) {
      const TilePlace place(task.shape, strip, chunk);
      work.load(place);
      statistic.add(place);
    }
    statistic.finish({task.shape, strip, 0});
    for (int64_t chunk = 0; chunk < task.shape.chunks; ++chunk) {
      const TilePlace place(task.shape, strip, chunk);
      if (task.shape.chunks > 1) work.load(place);
      work.quantize<kernel, false>(place, task.counts ? &tallies : nullptr);
      work.store(place);
    }
  }
  add_tallies(task, tallies);
}

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
    load_tile(task.from, task.shape, place, task.way, tile);
    rotate_tile(task.rotation, task.shape, place.count, tile, tile + task.tile, task.spare);
    store_tile(task.to, task.shape, place, tile, [](float) { return int8_t{0}; });
  });
}

struct LargerMagnitude {
  __device__ float operator()(float a, float b) const { return larger_magnitude(a, b); }
};

__global__ void largest_of_tiles(TransformTask task, float* of_blocks) {
  __shared__ float shared[warp_lanes];
  float* const tile = shared_memory<float>();
  float most = 0;
  for_each_tile(task.shape, [&](const TilePlace& place) {
    load_tile(task.from, task.shape, place, task.way, tile);
    rotate_tile(task.rotation, task.shape, place.count, tile, tile + task.tile, task.spare);
    for (int i = static_cast<int>(threadIdx.x); i < place.count << task.shape.log_width;
         i += static_cast<int>(blockDim.x))
      if ((i & (task.shape.width() - 1)) < place.width) most = larger_magnitude(most, magnitude(tile[i + (i >> 5)]));
  });
  most = over_block(most, shared, LargerMagnitude());
  if (threadIdx.x == 0) of_blocks[blockIdx.x] = most;
}

/// Without a rotation no tile is needed.
__global__ void largest_of_groups(TileSource from, int64_t rows, int64_t cols, float* of_blocks) {
  __shared__ float shared[warp_lanes];
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
  most = over_block(most, shared, LargerMagnitude());
  if (threadIdx.x == 0) of_blocks[blockIdx.x] = most;
}

__global__ void largest_of_blocks(const float* of_blocks, int count, float* to) {
  __shared__ float shared[warp_lanes];
  float most = 0;
  for (auto i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    most = larger_magnitude(most, of_blocks[i]);
  most = over_block(most, shared, LargerMagnitude());
  if (threadIdx.x == 0) *to = most;
}

__global__ void clear(unsigned long long* counts) { counts[threadIdx.x] = 0; }

/// What every kernel here starts with: x as tiles read it, rotated before where no tile can.
struct Prepared {
  Operand x;
  Quantization how;
  DeviceRotation rotation;
  OnTheWay way;
  TilePlan plan;
  TileParts parts;

  TransformTask transform(const TileTarget& to) const {
    return {plan.shape, TileSource(x), way, rotation, to, static_cast<int>(plan.shape.floats()), plan.spare};
  }
};

Prepared prepare(Stream& stream, const Operand& x, const Quantization& how, bool transposed, OnTheWay way = {},
                 const TileParts& parts = {}, bool counts = false) {
  const DeviceRotation rotation = DeviceRotation::of(stream, how.hadamard, how.signs, transposed);
  way.signs = rotation.signs_before();
  way.order = rotation ? rotation.order : 1;
  TileParts placed = parts;
  if (const std::optional<TilePlan> plan = plan_tiles(x.values, how, counts, placed))
    return {x, how, rotation, way, *plan, placed};
  const Operand rotated{.values = rotated_in_memory(stream, x, how.axis, rotation, way)};
  Quantization plain = how;
  plain.hadamard = nullptr;
  plain.signs = {};
  placed = parts;
  return {rotated, plain, {}, {}, plan_tiles(rotated.values, plain, counts, placed).value(), placed};
}

bool empty(const Operand& x) { return x.values.size() == 0; }

}  // namespace

Scalar tensor_statistic(Stream& stream, const Operand& x, const Quantization& how) {
  constexpr int most_blocks = 2048;
  constexpr unsigned threads = 256;
  if (empty(x)) return 0;
  auto* const of_blocks = stream.memory().working<float>(StreamMemory::sums, most_blocks);
  int blocks = 0;
  if (how.hadamard) {
    Quantization plain = how;
    plain.quantizer = {};
    const Prepared prepared = prepare(stream, x, plain, false);
    blocks = std::min(prepared.plan.blocks(), most_blocks);
    launch(stream.queue(), {static_cast<unsigned>(blocks)}, {prepared.plan.threads}, prepared.plan.bytes,
           largest_of_tiles, prepared.transform({}), of_blocks);
  } else {
    const int64_t groups = (x.values.cols + group_elements - 1) / group_elements * x.values.rows;
    blocks = static_cast<int>(std::min<int64_t>((groups + threads - 1) / threads, most_blocks));
    launch(stream.queue(), {static_cast<unsigned>(blocks)}, {threads}, 0, largest_of_groups, TileSource(x),
           x.values.rows, x.values.cols, of_blocks);
  }
  float* const to = stream.memory().number();
  launch(stream.queue(), {1}, {threads}, 0, largest_of_blocks, of_blocks, blocks, to);
  return Scalar::at(to);
}

namespace {

TilePart part_of(const Tensor& x) {
  TilePart part;
  if (!x) return part;
  part.data = x.on_device<uint8_t>();
  part.stride = x.stride;
  return part;
}

void launch_quantizer(Stream& stream, const TilePlan& plan, const QuantizeTask& task) {
  const Quantizer& q = task.quantizer;
  const bool by_row = q.extent == Extent::row;
  const auto go = [&](auto* kernel, int64_t blocks) {
    launch(stream.queue(), {static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, std::numeric_limits<int>::max()))},
           {plan.threads}, plan.bytes, kernel, task);
  };
  const auto with = [&]<RoundingKernel kernel>() {
    if (by_row) go(quantize_rows<kernel>, plan.shape.strips);
    else if (q.correction_group != 0) go(quantize_tiles<kernel, true>, plan.blocks());
    else go(quantize_tiles<kernel, false>, plan.blocks());
  };
  if (q.rounding == Rounding::stochastic) with.template operator()<RoundingKernel::stochastic>();
  else if (task.format.half_odd()) with.template operator()<RoundingKernel::half_odd>();
  else with.template operator()<RoundingKernel::nearest>();
}

}  // namespace

Operand quantize(Stream& stream, const Operand& x, const Quantization& how, const Scalar& statistic,
                 const Tensor& values, const Tensor& scale, const QuantizedParts& parts, QuantizationCounts* counts) {
  const Quantizer& q = how.quantizer;
  const TileTarget to = values ? TileTarget(values) : TileTarget();
  if (!q.quantizes()) {
    if (empty(x)) return {.values = values};
    const Prepared prepared = prepare(stream, x, how, false);
    launch(stream.queue(), {static_cast<unsigned>(prepared.plan.blocks())}, {prepared.plan.threads},
           prepared.plan.bytes, transform_tiles, prepared.transform(to));
    return {.values = values};
  }
  const bool scaled = q.needs_tensor_statistic() || q.learns();
  Operand result{.values = values, .factor = tensor_scale_of(q, 1) * (q.gain / q.shrink)};
  if (scaled) result.factor = Scalar::at(stream.memory().number());
  if (q.extent == Extent::row) (how.axis == Axis::cols ? result.row_scale : result.col_scale) = scale;
  auto* const tallies = counts ? stream.memory().working<unsigned long long>(StreamMemory::sums, 2) : nullptr;
  if (tallies) launch(stream.queue(), {1}, {2}, 0, clear, tallies);

  const TileParts given{part_of(parts.codes), part_of(parts.scales), part_of(parts.mask)};
  const Prepared prepared = prepare(stream, x, how, false, {}, given, counts != nullptr);
  const TilePlan& plan = prepared.plan;
  launch_quantizer(stream, plan,
                   {.shape = plan.shape,
                    .from = TileSource(prepared.x),
                    .way = prepared.way,
                    .rotation = prepared.rotation,
                    .quantizer = q,
                    .format = *q.element,
                    .rounding = how.rounding,
                    .scale_rounding = how.scale_rounding,
                    .part = how.part,
                    .statistic = statistic,
                    .factor = scaled ? const_cast<float*>(result.factor.address()) : nullptr,
                    .scale = q.extent == Extent::row ? scale.on_device<float>() : nullptr,
                    .values = to,
                    .parts = prepared.parts,
                    .counts = tallies,
                    .span = plan.span,
                    .tile = static_cast<int>(plan.shape.floats()),
                    .spare = plan.spare,
                    .row_scales = plan.row_scales});
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
  launch(stream.queue(), {static_cast<unsigned>(prepared.plan.blocks())}, {prepared.plan.threads}, prepared.plan.bytes,
         transform_tiles, prepared.transform(TileTarget(y)));
}

}  // namespace nibble::cuda
