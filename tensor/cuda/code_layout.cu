// Codes of operands as products take them: rows along the reduction axis, in bytes or nibbles; block scales in tiles.
#include <cstring>

#include "tensor/cuda/code_layout.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/cuda/kernels.hpp"

namespace nibble::cuda {
namespace {

constexpr int code_pack = 16;
/// Of a matrix of codes, in both directions, so that what is read and what is written lie in whole sectors.
constexpr int code_tile = 64;
constexpr unsigned layout_threads = code_tile * code_tile / code_pack;

using Codes = Pack<uint8_t, code_pack>;

/// What codes become.
struct Meanings {
  uint8_t codes[256];
};

/// Any layout, as lay_out_codes() says.
struct AnyCodes {
  int from_bits, to_bits;
  bool translates;
  Meanings meanings;

  /// Of a row from `col` on, which is a multiple of 16.
  __device__ Codes load(const uint8_t* row, int64_t col, bool packs, int64_t count) const {
    const uint8_t* const from = row + col / 8 * from_bits;
    Codes codes;
    if (from_bits == 4 && packs && count >= code_pack) {
      const auto pairs = *reinterpret_cast<const Pack<uint8_t, code_pack / 2>*>(from);
      for (int j = 0; j < code_pack; ++j) codes[j] = static_cast<uint8_t>(pairs[j / 2] >> j % 2 * 4 & 0xf);
      return codes;
    }
    for (int j = 0; j < code_pack; ++j) {
      const int first = j * from_bits / 8, bit = j * from_bits % 8;
      unsigned bits = j < count ? from[first] : 0u;
      if (j < count && bit + from_bits > 8) bits |= unsigned{from[first + 1]} << 8;
      codes[j] = static_cast<uint8_t>(bits >> bit & ((1u << from_bits) - 1));
    }
    return codes;
  }
  __device__ uint8_t meaning(const uint8_t* meanings_here, uint8_t code) const {
    return translates ? meanings_here[code] : code;
  }
  __device__ void store(uint8_t* row, int64_t col, const Codes& codes) const {
    if (to_bits == 8) {
      *reinterpret_cast<Codes*>(row + col) = codes;
      return;
    }
    Pack<uint8_t, code_pack / 2> pairs;
    for (int j = 0; j < code_pack / 2; ++j) pairs[j] = static_cast<uint8_t>(codes[2 * j] | codes[2 * j + 1] << 4);
    *reinterpret_cast<Pack<uint8_t, code_pack / 2>*>(row + col / 2) = pairs;
  }
};

/// Bytes that stay as they are.
struct SameBytes {
  __device__ Codes load(const uint8_t* row, int64_t col, bool packs, int64_t count) const {
    if (packs && count >= code_pack) return *reinterpret_cast<const Codes*>(row + col);
    Codes codes;
    for (int j = 0; j < code_pack; ++j) codes[j] = j < count ? row[col + j] : uint8_t{0};
    return codes;
  }
  __device__ void store(uint8_t* row, int64_t col, const Codes& codes) const {
    *reinterpret_cast<Codes*>(row + col) = codes;
  }
};

struct LayoutTask {
  const uint8_t* from;
  int64_t from_stride;
  bool packs;  ///< whether what a thread reads begins on as many bytes as it has
  int64_t rows, depth;
  uint8_t* to;
  int64_t to_rows, to_depth, to_stride;  ///< zeros around [rows, depth]; the depth is a multiple of code_pack
};

/// A block for each tile of the result.
template <bool transposes, class Format>
__global__ void lay_out(LayoutTask task, Format format) {
  const unsigned line = threadIdx.x / (code_tile / code_pack), part = threadIdx.x % (code_tile / code_pack) * code_pack;
  const int64_t first_row = int64_t{blockIdx.y} * code_tile, first_col = int64_t{blockIdx.x} * code_tile,
                row = first_row + line, col = first_col + part;
  const auto load = [&](int64_t from_row, int64_t from_col, int64_t rows, int64_t cols) {
    return format.load(task.from + from_row * task.from_stride, from_col, task.packs,
                       from_row < rows ? cols - from_col : 0);
  };
  Codes codes;
  if constexpr (transposes) {
    __shared__ uint32_t tile[code_tile][code_tile / 4 + 1];  // a word more: columns go over all banks
    const Codes loaded = load(first_col + line, first_row + part, task.depth, task.rows);
    memcpy(&tile[line][part / 4], &loaded, sizeof loaded);
    __syncthreads();
    for (unsigned j = 0; j < code_pack; ++j)
      codes[static_cast<int>(j)] = reinterpret_cast<const uint8_t*>(tile[part + j])[line];
  } else {
    codes = load(row, col, task.rows, task.depth);
  }
  if constexpr (std::is_same_v<Format, AnyCodes>) {
    __shared__ uint8_t meanings[sizeof(Meanings)];  // where each thread may read another one
    if (format.translates)
      for (unsigned i = threadIdx.x; i < sizeof meanings; i += blockDim.x) meanings[i] = format.meanings.codes[i];
    __syncthreads();
    for (int j = 0; j < code_pack; ++j) codes[j] = format.meaning(meanings, codes[j]);
  }
  if (row < task.to_rows && col < task.to_depth) format.store(task.to + row * task.to_stride, col, codes);
}

template <class Format>
void launch_layout(Stream& stream, bool transposes, const LayoutTask& task, const Format& format) {
  const auto tiles = [](int64_t count) { return static_cast<unsigned>((count + code_tile - 1) / code_tile); };
  const dim3 blocks{tiles(task.to_depth), tiles(task.to_rows)};
  if (transposes) launch(stream.queue(), blocks, {layout_threads}, 0, lay_out<true, Format>, task, format);
  else launch(stream.queue(), blocks, {layout_threads}, 0, lay_out<false, Format>, task, format);
}

struct ScaleTask {
  const uint8_t* from;
  int64_t stride, rows, blocks, square;
  uint8_t* to;
  int64_t pieces;  ///< of 16 bytes
};

/// A thread for each piece: four blocks of four rows that lie 32 apart.
__global__ void tile_block_scales(ScaleTask task) {
  constexpr int lanes = 32, side = 4;
  const int64_t piece = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (piece >= task.pieces) return;
  const int64_t across = (task.blocks + side - 1) / side, tile = piece / lanes, first_block = tile % across * side;
  Codes codes;
  for (int i = 0; i < side; ++i) {
    const int64_t row = (tile / across * side + i) * lanes + piece % lanes;
    for (int j = 0; j < side; ++j) {
      const int64_t block = first_block + j;
      const uint8_t* const from = task.square == 0 ? task.from + row * task.stride + block
                                                   : task.from + block * task.square * task.stride + row / task.square;
      codes[i * side + j] = row < task.rows && block < task.blocks ? *from : uint8_t{0};
    }
  }
  reinterpret_cast<Codes*>(task.to)[piece] = codes;
}

bool begins_on(const uint8_t* data, int64_t stride, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0 && stride % bytes == 0;
}

}  // namespace

void lay_out_bytes(Stream& stream, const uint8_t* from, int64_t from_stride, bool transposes, int64_t rows,
                   int64_t depth, uint8_t* to, int64_t to_rows, int64_t to_stride) {
  launch_layout(
      stream, transposes,
      {from, from_stride, begins_on(from, from_stride, code_pack), rows, depth, to, to_rows, to_stride, to_stride},
      SameBytes());
}

void lay_out_codes(Stream& stream, const CodeLayout& layout) {
  const Tensor &from = layout.from, &to = layout.to;
  const int64_t depth = to.cols * 8 / layout.to_bits;
  const LayoutTask task{.from = from.on_device<uint8_t>(),
                        .from_stride = from.stride,
                        .packs = begins_on(from.on_device<uint8_t>(), from.stride, code_pack * layout.from_bits / 8),
                        .rows = to.rows,
                        .depth = depth,
                        .to = to.on_device<uint8_t>(),
                        .to_rows = to.rows,
                        .to_depth = depth,
                        .to_stride = to.stride};
  if (layout.from_bits == 8 && layout.to_bits == 8 && layout.meanings.empty())
    return launch_layout(stream, layout.transposed, task, SameBytes());
  AnyCodes format{layout.from_bits, layout.to_bits, !layout.meanings.empty(), {}};
  for (size_t i = 0; i < layout.meanings.size(); ++i) format.meanings.codes[i] = layout.meanings[i];
  launch_layout(stream, layout.transposed, task, format);
}

void tile_scales(Stream& stream, const Tensor& scales, int64_t rows, int64_t blocks, int64_t square,
                 const Tensor& tiles) {
  constexpr unsigned threads = 256;
  const int64_t pieces = tiles.size() / code_pack;
  launch(stream.queue(), {static_cast<unsigned>((pieces + threads - 1) / threads)}, {threads}, 0, tile_block_scales,
         {scales.on_device<uint8_t>(), scales.stride, rows, blocks, square, tiles.on_device<uint8_t>(), pieces});
}

}  // namespace nibble::cuda
