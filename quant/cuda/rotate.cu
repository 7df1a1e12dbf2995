// Rotations on their way to the device, and those of matrices whose blocks do not fit into a block's memory.
#include "quant/cuda/rotate.hpp"

#include <bit>

namespace nibble::cuda {
namespace {

std::vector<uint32_t> bits_of_signs(std::span<const float> signs) {
  std::vector<uint32_t> words((signs.size() + 31) / 32);
  for (size_t i = 0; i < signs.size(); ++i)
    if (signs[i] < 0) words[i / 32] |= 1u << i % 32;
  return words;
}

/// A dense f32 matrix in the device's memory, as its transforms go through it: neighbours in memory go to neighbours
/// among the threads.
struct InMemory {
  float* data;
  bool along;
  int64_t outer, depth;

  __device__ float& at(int64_t o, int64_t d) const { return data[along ? o * depth + d : d * outer + o]; }
  /// Item i of `items` for each outer index.
  __device__ void place(int64_t i, int64_t items, int64_t& o, int64_t& item) const {
    o = along ? i / items : i % outer;
    item = along ? i % items : i / outer;
  }
};

struct Spread {
  TileSource from;
  Rows<float> to;
  bool along;
  OnTheWay way;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    Group group;
    from.load(row, col, count, from.factor.read(), group.values);
    apply(way, along, along ? row : col, along ? col : row, group.values);
    to.store(row, col, count, group);
  }
};

constexpr unsigned threads = 256;
unsigned blocks_for(int64_t items) {
  constexpr int64_t most = 1 << 20;
  return static_cast<unsigned>(std::min((items + threads - 1) / threads, most));
}

template <int stages>
__global__ void butterflies_in_memory(DeviceRotation rotation, InMemory matrix, int log_distance, bool finishes) {
  const int64_t units = matrix.depth >> stages, distance = int64_t{1} << log_distance;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < units * matrix.outer;
       i += int64_t{gridDim.x} * blockDim.x) {
    int64_t o = 0, unit = 0;
    matrix.place(i, units, o, unit);
    const int64_t first = ((unit >> log_distance) << (log_distance + stages)) + (unit & (distance - 1));
    butterfly<stages>([&](int j) { return matrix.at(o, first + j * distance); },
                      [&](int j, float v) {
                        const int64_t d = first + j * distance;
                        matrix.at(o, d) = finishes ? v * rotation.behind(d % rotation.order) : v;
                      });
  }
}

__global__ void multiply_core_in_memory(DeviceRotation rotation, InMemory from, InMemory to) {
  const int64_t doublings = int64_t{1} << rotation.log_doublings;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < from.outer * from.depth;
       i += int64_t{gridDim.x} * blockDim.x) {
    int64_t o = 0, d = 0;
    from.place(i, from.depth, o, d);
    const int64_t within = d % rotation.order, first = d - within + within % doublings;
    const auto row = static_cast<int>(within / doublings);
    float sum = 0;
    for (int k = 0; k < rotation.core; ++k) sum += from.at(o, first + k * doublings) * rotation.entry(row, k);
    to.at(o, d) = sum * rotation.behind(within);
  }
}

}  // namespace

DeviceRotation DeviceRotation::of(Stream& stream, const Hadamard* hadamard, std::span<const float> signs,
                                  bool transposed) {
  DeviceRotation rotation;
  if (!hadamard) return rotation;
  rotation.order = hadamard->order;
  rotation.log_doublings = std::countr_zero(static_cast<uint64_t>(hadamard->doublings));
  rotation.core = static_cast<int>(hadamard->core);
  rotation.transposed = transposed;
  rotation.normalization = hadamard->normalization;
  if (!signs.empty()) rotation.signs = stream.memory().words(stream, bits_of_signs(signs));
  if (hadamard->core > 1) rotation.entries = stream.memory().words(stream, bits_of_signs(hadamard->entries));
  return rotation;
}

Tensor rotated_in_memory(Stream& stream, const Operand& x, Axis axis, const DeviceRotation& rotation,
                         const OnTheWay& way) {
  const int64_t rows = x.values.rows, cols = x.values.cols;
  const auto size = static_cast<size_t>(rows * cols);
  const bool along = axis == Axis::cols, core = rotation.core > 1;
  float* const memory = stream.memory().working<float>(StreamMemory::rotations, (core ? 2 : 1) * size);
  const Tensor matrix(DType::f32, memory, rows, cols, cols, Place::device);
  for_each_group(stream, rows, cols, Spread{TileSource(x), Rows<float>(matrix), along, way});
  const InMemory from{memory, along, along ? rows : cols, along ? cols : rows};
  for (int log_distance = 0; log_distance < rotation.log_doublings;) {
    const int stages = stages_at(log_distance, rotation.log_doublings);
    const bool finishes = !core && log_distance + stages == rotation.log_doublings;
    auto* const kernel = stages == 1   ? butterflies_in_memory<1>
                         : stages == 2 ? butterflies_in_memory<2>
                         : stages == 3 ? butterflies_in_memory<3>
                                       : butterflies_in_memory<4>;
    launch(stream.queue(), {blocks_for(rows * cols >> stages)}, {threads}, 0, kernel, rotation, from, log_distance,
           finishes);
    log_distance += stages;
  }
  if (!core) return matrix;
  const InMemory to{memory + size, along, from.outer, from.depth};
  launch(stream.queue(), {blocks_for(rows * cols)}, {threads}, 0, multiply_core_in_memory, rotation, from, to);
  return {DType::f32, memory + size, rows, cols, cols, Place::device};
}

}  // namespace nibble::cuda
