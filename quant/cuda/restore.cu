// From packed codes and block scales back to values.
#include "quant/block_quantizer.hpp"
#include "quant/cuda/kernels.hpp"
#include "quant/cuda/tile.hpp"

namespace nibble::cuda {
namespace {

struct RestoreTask {
  TileShape shape;
  ElementFormat format;
  ScaleFormat scale;
  bool shifts;  ///< scales have a flag for the shifted grid
  const uint8_t* codes;
  int64_t codes_stride;
  const uint8_t* scales;  ///< null: none
  int64_t scales_stride;
  int group;
  TileTarget to;
};

/// The bit fields of eight codes.
struct EightCodes {
  uint32_t low = 0, high = 0;

  __device__ EightCodes(const uint8_t* bytes, int bits) {
    if (bits % 4 == 0 && reinterpret_cast<uintptr_t>(bytes) % 4 == 0) {
      low = reinterpret_cast<const uint32_t*>(bytes)[0];
      if (bits == 8) high = reinterpret_cast<const uint32_t*>(bytes)[1];
      return;
    }
    for (int i = 0; i < bits; ++i) (i < 4 ? low : high) |= uint32_t{bytes[i]} << (i % 4 * 8);
  }
  __device__ uint32_t code(int number, int bits) const {
    const uint64_t all = uint64_t{high} << 32 | low;
    return static_cast<uint32_t>(all >> (number * bits)) & ((1u << bits) - 1);
  }
};

__global__ void restore_tiles(RestoreTask task) {
  float* const tile = shared_memory<float>();
  const ElementFormat format = task.format;
  const int bits = format.bits();
  for_each_tile(task.shape, [&](const TilePlace& place) {
    const int eights = place.count / 8;
    for (int i = static_cast<int>(threadIdx.x); i < eights * place.width; i += static_cast<int>(blockDim.x)) {
      const int o = i / eights, d = i % eights * 8;
      const int64_t outer = place.outer + o, inner = place.first + d;
      const EightCodes codes(task.codes + outer * task.codes_stride + inner / 8 * bits, bits);
      const uint32_t scale_code = task.scales ? task.scales[outer * task.scales_stride + inner / task.group] : 0;
      const float scale = task.scales ? block_scale_of(task.scale, scale_code) : 1;
      const SharedRows rows = rows_of(tile, task.shape.log_width, o).from(d);
      for (int j = 0; j < 8; ++j) {
        float value = decode<float>(codes.code(j, bits), format);
        if (task.shifts && (scale_code & 0x80u) != 0) value = -(value + 0.25f);
        rows.store(j, task.scales ? value * scale : value);
      }
    }
    __syncthreads();
    store_tile(task.to, task.shape, place, tile,
               [&](float v) { return static_cast<int8_t>(static_cast<int32_t>(v - format.offset)); });
  });
}

}  // namespace

void restore(Stream& stream, const Quantizer& quantizer, const QuantizedParts& parts, const Tensor& values, Axis axis) {
  if (values.size() == 0) return;
  constexpr int chunk = 128, log_width = 5;
  constexpr unsigned threads = 256;
  const TileShape shape(values, axis, chunk, log_width);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(shape.strips * shape.chunks, 1 << 30));
  launch(stream.queue(), {blocks}, {threads}, static_cast<size_t>(shape.floats()) * sizeof(float), restore_tiles,
         RestoreTask{.shape = shape,
                     .format = *quantizer.element,
                     .scale = quantizer.scale,
                     .shifts = quantizer.choice == BlockChoice::shifted,
                     .codes = parts.codes.on_device<uint8_t>(),
                     .codes_stride = parts.codes.stride,
                     .scales = quantizer.blocks() ? parts.scales.on_device<uint8_t>() : nullptr,
                     .scales_stride = parts.scales.stride,
                     .group = quantizer.group,
                     .to = TileTarget(values)});
}

}  // namespace nibble::cuda
