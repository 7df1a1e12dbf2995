// Quantization of a matrix tile by tile, in the memory of a device's block: what the kernels of quantize.cu do.
#pragma once

#include "quant/cuda/plan.hpp"
#include "quant/cuda/rotate_tile.hpp"

namespace nibble::cuda {

/// What the kernels are told. A Source fills tiles as TileSource does.
template <class Source>
struct QuantizeTask {
  TileShape shape;
  Source from;
  OnTheWay way;
  DeviceRotation rotation;
  Quantizer quantizer;
  ElementFormat format;
  RandomStream rounding, scale_rounding;
  uint32_t part;
  Scalar statistic;
  float *factor, *scale;
  TileTarget values;
  TileParts parts;
  unsigned long long* counts;         ///< clipped and masked elements; null: nobody counts
  int span, tile, spare, row_scales;  ///< lengths in the block's memory, floats
};

/// The block's memory, and a tile on its way through it.
template <class Source>
class TileWork {
 public:
  __device__ explicit TileWork(const QuantizeTask<Source>& task)
      : task_(task),
        tensor_scale_(tensor_scale_of(task.quantizer, task.statistic.read())),
        tile_(shared_memory<float>()),
        spare_(tile_ + task.tile),
        row_scales_(spare_ + task.spare),
        parts_(reinterpret_cast<uint8_t*>(row_scales_ + task.row_scales)) {
    if (task.factor && blockIdx.x == 0 && threadIdx.x == 0)
      *task.factor = tensor_scale_ * (task.quantizer.gain / task.quantizer.shrink);
  }

  __device__ void load(const TilePlace& place) const {
    task_.from.fill(task_.shape, place, task_.way, tile_, row_scales_);
    rotate_tile(task_.rotation, task_.shape, place.count, tile_, spare_, task_.spare);
  }

  /// All threads have loaded it.
  template <RoundingKernel kernel, bool correctable>
  __device__ void quantize(const TilePlace& place, Tallies* counted) const {
    const int width = task_.shape.width(), spans = (place.count + task_.span - 1) / task_.span;
    const bool together = task_.quantizer.extent == Extent::square;  // lanes that have no values, too
    for (int i = static_cast<int>(threadIdx.x); i < spans * width; i += static_cast<int>(blockDim.x)) {
      const int o = i & (width - 1), first = (i >> task_.shape.log_width) * task_.span;
      if (o >= place.width && !together) continue;
      const ThreadLanes lanes(task_.parts, parts_, place, o, counted);
      const BlockQuantizer<ThreadLanes> blocks = quantizer(lanes, place);
      const BlockScale<float> known = task_.quantizer.extent == Extent::row
                                          ? BlockScale<float>{0, row_scales_[2 * o], row_scales_[2 * o + 1]}
                                          : blocks.tensor_scale();
      const int left = place.count - first;
      blocks.template quantize<kernel, correctable>(rows_of(tile_, task_.shape.log_width, o).from(first), first,
                                                    left < task_.span ? left : task_.span, known);
    }
  }

  __device__ void store(const TilePlace& place) const {
    __syncthreads();
    if (task_.values.data) {
      const ElementFormat format = task_.format;
      store_tile(task_.values, task_.shape, place, tile_, [&](float v) {
        const auto unused = static_cast<uint32_t>(32 - format.bits());
        return static_cast<int8_t>(simd::as<int32_t>(encode(v, format) << unused) >> static_cast<int>(unused));
      });
    }
    write_part(task_.parts.codes, parts_, place);
    write_part(task_.parts.scales, parts_, place);
    write_part(task_.parts.mask, parts_, place);
    __syncthreads();
  }

  /// The statistic of rows, chunk by chunk: eights in the order of their tree, whole segments by a thread each.
  class RowStatistic {
   public:
    __device__ explicit RowStatistic(const TileWork& work) : work_(work), q_(work.task_.quantizer) {}

    __device__ void add(const TilePlace& place) {
      const TileShape& shape = work_.task_.shape;
      const int width = shape.width(), segments = place.count / segment;
      float* const sums = work_.spare_;
      for (int i = static_cast<int>(threadIdx.x); i < segments * width; i += static_cast<int>(blockDim.x)) {
        const SharedRows rows = work_.row(i & (width - 1)).from((i >> shape.log_width) * segment);
        const Block<SharedRows> block{rows, 0, segment};
        sums[2 * i] = largest() ? largest_of(block) : squares_of(block);
        sums[2 * i + 1] = deviates() ? sum_of(block) : 0;
      }
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < width) {
        for (int i = static_cast<int>(threadIdx.x); i < segments * width; i += width) {
          if (largest()) largest_ = larger_magnitude(largest_, sums[2 * i]);
          else squares_.add(sums[2 * i], segment_level);
          if (deviates()) sum_.add(sums[2 * i + 1], segment_level);
        }
        const SharedRows rows = work_.row(static_cast<int>(threadIdx.x));
        for (int d = segments * segment; d < place.count; d += 8) {
          const Block<SharedRows> eight{rows.from(d), 0, place.count - d < 8 ? place.count - d : 8};
          if (largest()) largest_ = larger_magnitude(largest_, largest_of(eight));
          else squares_.add(squares_of(eight));
          if (deviates()) sum_.add(sum_of(eight));
        }
      }
      __syncthreads();
    }

    /// Behind the last chunk: the scales of the rows of a strip.
    __device__ void finish(const TilePlace& place) const {
      const auto o = static_cast<int>(threadIdx.x);
      if (o < work_.task_.shape.width()) {
        const ThreadLanes lanes(work_.task_.parts, work_.parts_, place, o, nullptr);
        const BlockQuantizer<ThreadLanes> blocks = work_.quantizer(lanes, place);
        const BlockScale<float> scale = largest() ? blocks.scale_of_largest(largest_)
                                                  : blocks.scale_of_sums(squares_.total(), sum_.total(),
                                                                         static_cast<float>(work_.task_.shape.depth));
        work_.row_scales_[2 * o] = scale.value;
        work_.row_scales_[2 * o + 1] = scale.inverse;
        if (o < place.width) work_.task_.scale[place.outer + o] = scale.value;
      }
      __syncthreads();
    }

   private:
    __device__ bool largest() const { return q_.statistic == Statistic::largest; }
    __device__ bool deviates() const { return q_.statistic == Statistic::standard_deviation; }
    __device__ static float largest_of(const Block<SharedRows>& block) {
      float most = 0;
      for (int d = 0; d < block.count; ++d) most = larger_magnitude(most, magnitude(block.load(d)));
      return most;
    }
    __device__ static float squares_of(const Block<SharedRows>& block) {
      return sum_over(block, [&](int d) { return block.load(d) * block.load(d); });
    }
    __device__ static float sum_of(const Block<SharedRows>& block) {
      return sum_over(block, [&](int d) { return block.load(d); });
    }

    const TileWork& work_;
    const Quantizer& q_;
    float largest_ = 0;
    PairwiseSum<float> squares_, sum_;
  };

 private:
  __device__ SharedRows row(int o) const { return rows_of(tile_, task_.shape.log_width, o); }
  __device__ BlockQuantizer<ThreadLanes> quantizer(const ThreadLanes& lanes, const TilePlace& place) const {
    return {lanes,
            task_.quantizer,
            task_.format,
            task_.rounding,
            task_.scale_rounding,
            task_.part,
            tensor_scale_,
            task_.shape.depth,
            place.first,
            SharedRows{spare_, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}};
  }

  const QuantizeTask<Source>& task_;
  float tensor_scale_;
  float *tile_, *spare_, *row_scales_;
  uint8_t* parts_;
};

}  // namespace nibble::cuda
