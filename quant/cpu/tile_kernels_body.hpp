// The tile kernels themselves; included by tile_kernels_avx2.cpp and tile_kernels_avx512.cpp, each for its instruction
// set.
#pragma once

#include "quant/cpu/quantize_tile.hpp"
#include "quant/cpu/restore_rows.hpp"
#include "quant/cpu/rotate_tile.hpp"

namespace nibble {
namespace {

void load_rotated(const TileSource& from, const Tile& tile, float* spare) {
  load_tile(from.x, from.how.axis, tile);
  if (from.how.hadamard) rotate_tile(tile, *from.how.hadamard, from.how.signs, false, spare);
}

float largest_of_tiles(const TileSource& from, int64_t begin, int64_t end, TileMemory memory) {
  f32x most{};
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = from.tiling.tile(index, memory.tile);
    load_rotated(from, tile, memory.spare);
    for (int64_t d = 0; d < tile.depth; ++d) most = larger_magnitude(most, magnitude(simd::load(tile.row(d))));
  }
  float largest = 0;
  for (int lane = 0; lane < lanes; ++lane) largest = larger_magnitude(largest, float{most[lane]});
  return largest;
}

/// Codes that stand for themselves plus the format's offset; fewer than 8 bits spread their sign over the rest.
void store_integers(const Tile& tile, Axis axis, const Tensor& y, const ElementFormat& element) {
  const auto unused = static_cast<uint32_t>(32 - element.bits());
  store_tile<int8_t>(tile, axis, y, [&](f32x v) {
    return simd::as<u32x>(simd::as<i32x>(encode(v, element) << unused) >> static_cast<int>(unused)) & 0xffu;
  });
}

void quantize_tiles(const TileSource& from, float tensor_scale, const QuantizeTarget& to, QuantizationCounts* counts,
                    int64_t begin, int64_t end, TileMemory memory) {
  const bool quantizes = from.how.quantizer.quantizes();
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = from.tiling.tile(index, memory.tile);
    load_rotated(from, tile, memory.spare);
    if (quantizes) TileQuantizer(from, tensor_scale, to, counts, memory.spare).quantize(tile);
    if (!to.values) continue;
    if (to.values.dtype == DType::i8) store_integers(tile, from.how.axis, to.values, *from.how.quantizer.element);
    else store_tile(tile, from.how.axis, to.values);
  }
}

void apply_mask(const Tile& tile, const Tensor& mask) {
  for (int64_t d = 0; d < tile.depth; d += 8) {
    uint32_t bytes[lanes] = {};
    for (int64_t lane = 0; lane < tile.width; ++lane)
      bytes[lane] = mask.row<uint8_t>(tile.outer + lane)[(tile.first + d) / 8];
    u32x bits;
    std::memcpy(&bits, bytes, sizeof bits);
    for (uint32_t j = 0; j < 8; ++j) {
      const f32x v = simd::load(tile.row(d + j));
      simd::store(tile.row(d + j), (bits >> j & 1u) != 0u ? v : f32x{});
    }
  }
}

void unrotate_tiles(const TileSource& from, const Tensor& mask, const Tensor& y, int64_t begin, int64_t end,
                    TileMemory memory) {
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = from.tiling.tile(index, memory.tile);
    load_tile(from.x, from.how.axis, tile);
    if (mask) apply_mask(tile, mask);
    if (from.how.hadamard) rotate_tile(tile, *from.how.hadamard, from.how.signs, true, memory.spare);
    store_tile(tile, from.how.axis, y);
  }
}

void error_of_tiles(const TileSource& from, const Operand& quantized, OperandError* of_tiles, int64_t begin,
                    int64_t end, TileMemory memory) {
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = from.tiling.tile(index, memory.tile), other = from.tiling.tile(index, memory.spare);
    load_rotated(from, tile, memory.spare);
    load_tile(quantized, from.how.axis, other);
    OperandError& sums = of_tiles[index];
    for (int64_t d = 0; d < tile.depth; ++d)
      for (int64_t lane = 0; lane < tile.width; ++lane) {
        const double exact = tile.row(d)[lane], q = other.row(d)[lane];
        sums.squared_error += (exact - q) * (exact - q);
        sums.squared += exact * exact;
        sums.squared_operand += q * q;
        sums.product += exact * q;
        sums.underflows += q == 0 && exact != 0;
      }
    sums.elements = tile.depth * tile.width;
  }
}

constexpr TileKernels compiled{largest_of_tiles, quantize_tiles, unrotate_tiles, restore_rows, error_of_tiles};

}  // namespace
}  // namespace nibble
