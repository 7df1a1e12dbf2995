// What is done tile by tile, compiled once for each instruction set.
//
// The callers (quantize.cpp) cut matrices into tiles, give them to threads and keep each thread's memory.
#pragma once

#include "quant/cpu/tile.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// A thread's memory: floats for a tile, and as many beside it.
struct TileMemory {
  float* tile;
  float* spare;
};

/// A matrix on its way into tiles: what every kernel starts with.
struct TileSource {
  const Operand& x;
  const Quantization& how;
  const Tiling& tiling;
};

/// What quantize() was told to write.
struct QuantizeTarget {
  const Tensor& values;
  const Tensor& scale;
  const QuantizedParts& parts;
};

struct TileKernels {
  /// The largest magnitude in tiles [begin, end), rotated.
  float (*largest)(const TileSource& from, int64_t begin, int64_t end, TileMemory memory);
  void (*quantize)(const TileSource& from, float tensor_scale, const QuantizeTarget& to, QuantizationCounts* counts,
                   int64_t begin, int64_t end, TileMemory memory);
  void (*unrotate)(const TileSource& from, const Tensor& mask, const Tensor& y, int64_t begin, int64_t end,
                   TileMemory memory);
  /// Outer indices [begin, end) of what codes and scales stand for.
  void (*restore)(const Quantizer& quantizer, const QuantizedParts& parts, Axis axis, const Tensor& values,
                  int64_t begin, int64_t end);
  void (*error)(const TileSource& from, const Operand& quantized, OperandError* of_tiles, int64_t begin, int64_t end,
                TileMemory memory);
};

const TileKernels& tile_kernels(Isa isa);

}  // namespace nibble
