// The kernels that quantize, for whatever fills their tiles: a matrix (quantize.cu), or what would have written one.
//
// Not for: rotations and statistics by themselves (quantize.cu).
#pragma once

#include <algorithm>
#include <limits>
#include <optional>

#include "quant/cuda/tile_work.hpp"
#include "tensor/cuda/stream_memory.hpp"

namespace nibble::cuda {

template <class Source>
__device__ void add_tallies(const QuantizeTask<Source>& task, const Tallies& tallies) {
  __shared__ unsigned sums[warp_lanes];
  if (!task.counts) return;
  const unsigned clipped = over_block(tallies.clipped, sums, Plus()), masked = over_block(tallies.masked, sums, Plus());
  if (threadIdx.x != 0) return;
  atomic_add(task.counts, clipped);
  atomic_add(task.counts + 1, masked);
}

// Tasks are constants of the grid, or each thread would have a copy for what refers to them.

template <RoundingKernel kernel, bool correctable, class Source>
__global__ void quantize_tiles(const __grid_constant__ QuantizeTask<Source> task) {
  const TileWork<Source> work(task);
  Tallies tallies;
  for_each_tile(task.shape, [&](const TilePlace& place) {
    work.load(place);
    work.template quantize<kernel, correctable>(place, task.counts ? &tallies : nullptr);
    work.store(place);
  });
  add_tallies(task, tallies);
}

/// A strip of rows under scales of their own; those that have one chunk are read once.
template <RoundingKernel kernel, class Source>
__global__ void quantize_rows(const __grid_constant__ QuantizeTask<Source> task) {
  const TileWork<Source> work(task);
  Tallies tallies;
  for (int64_t strip = blockIdx.x; strip < task.shape.strips; strip += gridDim.x) {
    typename TileWork<Source>::RowStatistic statistic(work);
    for (int64_t chunk = 0; chunk < task.shape.chunks; ++chunk) {
      const TilePlace place(task.shape, strip, chunk);
      work.load(place);
      statistic.add(place);
    }
    statistic.finish({task.shape, strip, 0});
    for (int64_t chunk = 0; chunk < task.shape.chunks; ++chunk) {
      const TilePlace place(task.shape, strip, chunk);
      if (task.shape.chunks > 1) work.load(place);
      work.template quantize<kernel, false>(place, task.counts ? &tallies : nullptr);
      work.store(place);
    }
  }
  add_tallies(task, tallies);
}

/// How the work on a matrix is laid out for a kernel. Without a plan no tile fits.
struct Arrangement {
  DeviceRotation rotation;
  OnTheWay way;
  TileParts parts;
  std::optional<TilePlan> plan;

  /// `way` and `parts` as given but for their places.
  Arrangement(Stream& stream, const Tensor& x, const Quantization& how, bool transposed, const OnTheWay& on_the_way,
              const TileParts& given, bool counts, TilesOf tiles = TilesOf::whole_blocks)
      : rotation(DeviceRotation::of(stream, how.hadamard, how.signs, transposed)),
        way(on_the_way),
        parts(given),
        plan(plan_tiles(x, how, counts, parts, tiles)) {
    way.signs = rotation.signs_before();
    way.order = rotation ? rotation.order : 1;
  }
};

inline TilePart part_of(const Tensor& x) {
  TilePart part;
  if (!x) return part;
  part.data = x.on_device<uint8_t>();
  part.stride = x.stride;
  return part;
}
inline TileParts parts_of(const QuantizedParts& parts) {
  return {part_of(parts.codes), part_of(parts.scales), part_of(parts.mask)};
}

/// Queues the kernel of how.quantizer, and returns what quantize() does. `from` fills the tiles of the arrangement;
/// `counts` may be null. Sources that are not for_all_quantizers are told of those alone that is_plain() is true of.
template <class Source>
Operand launch_quantizer(Stream& stream, const Source& from, const Arrangement& arrangement, const Quantization& how,
                         const Scalar& statistic, const Tensor& values, const Tensor& scale,
                         unsigned long long* counts) {
  const Quantizer& q = how.quantizer;
  const TilePlan& plan = *arrangement.plan;
  const bool by_row = q.extent == Extent::row, scaled = q.needs_tensor_statistic() || q.learns();
  Operand result{.values = values, .factor = tensor_scale_of(q, 1) * (q.gain / q.shrink)};
  float* const factor = scaled ? stream.memory().number() : nullptr;
  if (scaled) result.factor = Scalar::at(factor);
  if (by_row) (how.axis == Axis::cols ? result.row_scale : result.col_scale) = scale;
  const QuantizeTask<Source> task{.shape = plan.shape,
                                  .from = from,
                                  .way = arrangement.way,
                                  .rotation = arrangement.rotation,
                                  .quantizer = q,
                                  .format = *q.element,
                                  .rounding = how.rounding,
                                  .scale_rounding = how.scale_rounding,
                                  .part = how.part,
                                  .statistic = statistic,
                                  .factor = factor,
                                  .scale = by_row ? scale.on_device<float>() : nullptr,
                                  .values = values ? TileTarget(values) : TileTarget(),
                                  .parts = arrangement.parts,
                                  .counts = counts,
                                  .span = plan.span,
                                  .tile = static_cast<int>(plan.shape.floats()),
                                  .spare = plan.spare,
                                  .row_scales = plan.row_scales};
  const auto go = [&](auto* kernel, int64_t blocks) {
    launch(stream.queue(), {static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, std::numeric_limits<int>::max()))},
           {plan.threads}, plan.bytes, kernel, task);
  };
  const auto with = [&]<RoundingKernel kernel>() {
    if constexpr (Source::for_all_quantizers)
      if (!by_row && q.correction_group != 0) return go(quantize_tiles<kernel, true, Source>, plan.blocks());
    if (by_row) go(quantize_rows<kernel, Source>, plan.shape.strips);
    else go(quantize_tiles<kernel, false, Source>, plan.blocks());
  };
  if constexpr (Source::for_all_quantizers)
    if (q.rounding == Rounding::stochastic) {
      with.template operator()<RoundingKernel::stochastic>();
      return result;
    }
  if (q.element->half_odd()) with.template operator()<RoundingKernel::half_odd>();
  else with.template operator()<RoundingKernel::nearest>();
  return result;
}

/// Rounded to nearest under scales that nothing corrects.
inline bool is_plain(const Quantizer& q) { return q.rounding == Rounding::nearest && q.correction_group == 0; }

}  // namespace nibble::cuda
