#include "quant/quantize.hpp"

#include <mutex>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "quant/block_quantizer.hpp"
#include "quant/cpu/tile_kernels.hpp"
#include "quant/cuda/kernels.hpp"
#include "tensor/error.hpp"
#include "tensor/profile.hpp"

namespace nibble {
namespace {

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

void check_length(const Tensor& x, const Quantization& how) {
  const Quantizer& q = how.quantizer;
  const int64_t depth = how.axis == Axis::cols ? x.cols : x.rows,
                blocks = q.blocks() ? std::max<int64_t>(q.group, q.correction_group) : 1,
                whole = std::lcm(blocks, how.hadamard ? how.hadamard->order : int64_t{1});
  if (depth % whole != 0)
    throw Error(
        {.kind = ErrorKind::internal,
         .what = "the reduction axis of a matrix ends within a block of its quantizer or rotation",
         .where = "quantize",
         .seen = fmt::format("{} x {}, along its {}", x.rows, x.cols, how.axis == Axis::cols ? "columns" : "rows"),
         .allowed = fmt::format("a length that {} divides", whole),
         .next = {}});
}

Scalar tensor_statistic(Stream& stream, const Operand& x, const Quantization& how) {
  const KernelTimer timer(stream, "tensor statistic", {x.values});
  if (stream.on_device()) return cuda::tensor_statistic(stream, x, how);
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

Operand quantize(Stream& stream, const Operand& x, const Quantization& how, const Scalar& statistic,
                 const Tensor& values, const Tensor& scale, const QuantizedParts& parts, QuantizationCounts* counts) {
  const KernelTimer timer(stream, "quantize", {x.values, values, parts.codes, parts.scales});
  check_length(x.values, how);
  if (stream.on_device()) return cuda::quantize(stream, x, how, statistic, values, scale, parts, counts);
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
  if (stream.on_device()) return cuda::restore(stream, quantizer, parts, values, axis);
  const int64_t together = axis == Axis::cols ? 1 : tile_width, outer = parts.codes.rows;
  parallel_for(stream, (outer + together - 1) / together, 1, [&](int64_t begin, int64_t end) {
    tile_kernels(stream.isa())
        .restore(quantizer, parts, axis, values, begin * together, std::min(end * together, outer));
  });
}

void unrotate(Stream& stream, const Tensor& x, Axis axis, const Hadamard* hadamard, std::span<const float> signs,
              const Tensor& mask, const Tensor& y) {
  const KernelTimer timer(stream, "unrotate", {x, y});
  if (stream.on_device()) return cuda::unrotate(stream, x, axis, hadamard, signs, mask, y);
  const Quantization how{.axis = axis, .hadamard = hadamard, .signs = signs};
  const Operand operand{.values = x};
  const Tiling tiling(x, axis, chunk_length(how));
  for_all_tiles(stream, tiling, [&](int64_t begin, int64_t end, TileMemory memory) {
    tile_kernels(stream.isa()).unrotate({operand, how, tiling}, mask, y, begin, end, memory);
  });
}

OperandError operand_error(Stream& stream, const Operand& x, const Quantization& how, const Operand& quantized) {
  if (stream.on_device()) return cuda::operand_error(stream, x, how, quantized);
  const Tiling tiling(x.values, how.axis, chunk_length(how));
  std::vector<OperandError> of_tiles(static_cast<size_t>(tiling.size()));
  for_all_tiles(stream, tiling, [&](int64_t begin, int64_t end, TileMemory memory) {
    tile_kernels(stream.isa()).error({x, how, tiling}, quantized, of_tiles.data(), begin, end, memory);
  });
  return sum_of(of_tiles);
}

OperandError sum_of(std::span<const OperandError> parts) {
  OperandError total;
  for (const OperandError& part : parts) {
    total.squared_error += part.squared_error;
    total.squared += part.squared;
    total.squared_operand += part.squared_operand;
    total.product += part.product;
    total.underflows += part.underflows;
    total.elements += part.elements;
  }
  return total;
}

namespace {
template <class T>
void subtract_rows(Stream& stream, const Operand& x, const Tensor& from) {
  const float factor = x.factor;
  parallel_for(stream, from.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float scale = factor * (x.row_scale ? x.row_scale.as<float>()[i] : 1.0f);
      const T* const values = x.values.row<T>(i);
      float* const to = from.row<float>(i);
      for (int64_t j = 0; j < from.cols; ++j) to[j] -= static_cast<float>(values[j]) * scale;
    }
  });
}
}  // namespace

void subtract(Stream& stream, const Operand& x, const Tensor& from) {
  const KernelTimer timer(stream, "subtract", {x.values, from, from});
  if (stream.on_device()) return cuda::subtract(stream, x, from);
  if (x.values.dtype == DType::bf16) subtract_rows<bf16>(stream, x, from);
  else subtract_rows<float>(stream, x, from);
}

}  // namespace nibble
