#include "quant/quantize.hpp"

#include <mutex>
#include <numeric>
#include <vector>

#include "quant/arithmetic.hpp"
#include "quant/cpu/tile_kernels.hpp"
#include "tensor/profile.hpp"

namespace nibble {
namespace {

/// Of the reduction axis: whole blocks, rotations and corrections; the whole axis where one scale spans it.
int64_t chunk_length(const Quantization& how) {
  constexpr int64_t usual = 128;
  const Quantizer& q = how.quantizer;
  if (q.quantizes() && q.extent == Extent::row) return std::numeric_limits<int64_t>::max();
  int64_t whole = how.hadamard ? how.hadamard->order : 1;
  if (q.quantizes() && q.blocks()) whole = std::lcm(whole, std::max<int64_t>(q.group, q.correction_group));
  return (std::max(usual, whole) + whole - 1) / whole * whole;
}

/// t of x ~ q s t for the whole tensor.
float tensor_scale_of(const Quantizer& q, float statistic) {
  if (!q.needs_tensor_statistic() && !q.learns()) return 1;
  const float scale =
      q.scale == ScaleFormat::e4m3 ? statistic / (q.scale_limit * q.divisor) : statistic / q.divisor + q.epsilon;
  return scale == 0 ? 1 : scale;
}

/// work(begin, end, memory) over all tiles, on all threads.
template <class Work>
void for_all_tiles(Stream& stream, const Tiling& tiling, Work&& work) {
  parallel_for(stream, tiling.size(), 1, [&](int64_t begin, int64_t end) {
    thread_local Buffer buffer;
    const int64_t floats = tiling.floats();
    const size_t bytes = 2 * static_cast<size_t>(floats) * sizeof(float);
    if (buffer.bytes() < bytes) buffer = Buffer(bytes, "tiles of the quantizers");
    auto* memory = static_cast<float*>(buffer.data());
    work(begin, end, TileMemory{memory, memory + floats});
  });
}

}  // namespace

float tensor_statistic(Stream& stream, const Operand& x, const Quantization& how) {
  const KernelTimer timer(stream, "tensor statistic", {x.values});
  Quantization plain = how;
  plain.quantizer = {};
  if (!how.hadamard) plain.axis = Axis::rows;  // the order of elements is of no concern: no tile needs turning
  const Tiling tiling(x.values, plain.axis, chunk_length(plain));
  const TileSource from{x, plain, tiling};
  std::mutex merging;
  float largest = 0;
  for_all_tiles(stream, tiling, [&](int64_t begin, int64_t end, TileMemory memory) {
    const float here = tile_kernels(stream.isa()).largest(from, begin, end, memory);
    const std::lock_guard lock(merging);
    largest = larger_magnitude(largest, here);
  });
  return largest;
}

Operand quantize(Stream& stream, const Operand& x, const Quantization& how, float statistic, const Tensor& values,
                 const Tensor& scale, const QuantizedParts& parts, QuantizationCounts* counts) {
  const KernelTimer timer(stream, "quantize", {x.values, values});
  const Quantizer& q = how.quantizer;
  const Tiling tiling(x.values, how.axis, chunk_length(how));
  const TileSource from{x, how, tiling};
  const float tensor_scale = tensor_scale_of(q, statistic);
  std::mutex merging;
  for_all_tiles(stream, tiling, [&](int64_t begin, int64_t end, TileMemory memory) {
    QuantizationCounts here;
    tile_kernels(stream.isa())
        .quantize(from, tensor_scale, {values, scale, parts}, counts ? &here : nullptr, begin, end, memory);
    if (!counts) return;
    const std::lock_guard lock(merging);
    counts->elements += here.elements;
    counts->clipped += here.clipped;
    counts->masked += here.masked;
  });
  if (!q.quantizes()) return {.values = values};
  Operand result{.values = values, .factor = tensor_scale * (q.gain / q.shrink)};
  if (q.extent == Extent::row) (how.axis == Axis::cols ? result.row_scale : result.col_scale) = scale;
  return result;
}

void restore(Stream& stream, const Quantizer& quantizer, const QuantizedParts& parts, const Tensor& values, Axis axis) {
  const KernelTimer timer(stream, "restore", {parts.codes, parts.scales, values});
  const int64_t together = axis == Axis::cols ? 1 : tile_width, outer = parts.codes.rows;
  parallel_for(stream, (outer + together - 1) / together, 1, [&](int64_t begin, int64_t end) {
    tile_kernels(stream.isa())
        .restore(quantizer, parts, axis, values, begin * together, std::min(end * together, outer));
  });
}

void unrotate(Stream& stream, const Tensor& x, Axis axis, const Hadamard* hadamard, std::span<const float> signs,
              const Tensor& mask, const Tensor& y) {
  const KernelTimer timer(stream, "unrotate", {x, y});
  const Quantization how{.axis = axis, .hadamard = hadamard, .signs = signs};
  const Operand operand{.values = x};
  const Tiling tiling(x, axis, chunk_length(how));
  for_all_tiles(stream, tiling, [&](int64_t begin, int64_t end, TileMemory memory) {
    tile_kernels(stream.isa()).unrotate({operand, how, tiling}, mask, y, begin, end, memory);
  });
}

OperandError operand_error(Stream& stream, const Operand& x, const Quantization& how, const Operand& quantized) {
  const Tiling tiling(x.values, how.axis, chunk_length(how));
  std::vector<OperandError> of_tiles(static_cast<size_t>(tiling.size()));
  for_all_tiles(stream, tiling, [&](int64_t begin, int64_t end, TileMemory memory) {
    tile_kernels(stream.isa()).error({x, how, tiling}, quantized, of_tiles.data(), begin, end, memory);
  });
  OperandError total;
  for (const OperandError& tile : of_tiles) {
    total.squared_error += tile.squared_error;
    total.squared += tile.squared;
    total.squared_operand += tile.squared_operand;
    total.product += tile.product;
    total.underflows += tile.underflows;
    total.elements += tile.elements;
  }
  return total;
}

}  // namespace nibble
