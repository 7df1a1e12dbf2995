// The gradient of the table: tokens are sorted by id with a radix sort that keeps the order of equal ones, so that each
// row of the table that occurs is read and written once, and its tokens' gradients are added in order.
#include <bit>

#include "model/cuda/kernels.hpp"
#include "tensor/cuda/elements.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned tile = static_cast<unsigned>(EmbeddingScratch::tile);
constexpr unsigned digits = static_cast<unsigned>(EmbeddingScratch::digits);
constexpr int digit_bits = std::bit_width(digits) - 1;
static_assert(tile == digits, "a thread is of a token and of a digit");

template <class T>
struct Gather {
  const int32_t* ids;
  Rows<T> table;
  Rows<float> x;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    x.store(row, col, count, table.load(ids[row], col, count));
  }
};

/// Tokens and their ids, in the order of some pass.
struct Sorted {
  int32_t *ids, *tokens;
};

/// The digits of a tile's tokens, in the block's memory; where there is no token, one that does not occur.
struct TileDigits {
  using Four = Pack<unsigned, 4>;
  Four fours[tile / 4];

  __device__ unsigned& operator[](unsigned i) { return fours[i / 4][static_cast<int>(i % 4)]; }
  /// Of the first `end`.
  __device__ unsigned count(unsigned digit, unsigned end) const {
    unsigned count = 0;
    for (unsigned i = 0; i < tile / 4; ++i) {
      const Four four = fours[i];
      for (unsigned j = 0; j < 4; ++j) count += four[static_cast<int>(j)] == digit && 4 * i + j < end;
    }
    return count;
  }
};

/// The one of a thread.
struct OwnToken {
  int64_t index;
  bool present;
  int32_t id;
  unsigned digit;

  __device__ OwnToken(const int32_t* ids, int64_t count, int shift)
      : index(int64_t{blockIdx.x} * tile + threadIdx.x),
        present(index < count),
        id(present ? ids[index] : 0),
        digit(present ? static_cast<unsigned>(id) >> shift & (digits - 1) : digits) {}
};

__global__ void __launch_bounds__(tile) count_digits(const int32_t* ids, int64_t count, int shift, int32_t* counts) {
  __shared__ TileDigits all;
  all[threadIdx.x] = OwnToken(ids, count, shift).digit;
  __syncthreads();
  counts[int64_t{blockIdx.x} * digits + threadIdx.x] = static_cast<int32_t>(all.count(threadIdx.x, tile));
}

/// `from.tokens` null: they are in their first order.
__global__ void __launch_bounds__(tile)
    place_by_digit(Sorted from, int64_t count, int shift, const int32_t* counts, Sorted to) {
  __shared__ TileDigits all;
  __shared__ int32_t places[digits], totals[digits];
  const unsigned digit = threadIdx.x;
  const OwnToken own(from.ids, count, shift);
  all[threadIdx.x] = own.digit;
  int32_t before = 0, total = 0;  // of the digit: in earlier tiles, in all
  for (unsigned i = 0; i < gridDim.x; ++i) {
    const int32_t of_tile = counts[int64_t{i} * digits + digit];
    total += of_tile;
    if (i < blockIdx.x) before += of_tile;
  }
  int32_t up_to_here = total;
  for (unsigned distance = 1; distance < digits; distance *= 2) {
    totals[digit] = up_to_here;
    __syncthreads();
    if (digit >= distance) up_to_here += totals[digit - distance];
    __syncthreads();
  }
  places[digit] = up_to_here - total + before;
  __syncthreads();
  if (!own.present) return;
  const int64_t place = int64_t{places[own.digit]} + all.count(own.digit, threadIdx.x);
  to.ids[place] = own.id;
  to.tokens[place] = from.tokens ? from.tokens[own.index] : static_cast<int32_t>(own.index);
}

constexpr int columns = 4;  ///< of a thread: 16 bytes
using Columns = Pack<float, columns>;

/// Rows of floats, whose columns threads share in fours.
struct Fours {
  float* data;
  int64_t stride;
  bool wide;

  explicit Fours(const Tensor& x)
      : data(x.on_device<float>()),
        stride(x.stride),
        wide(reinterpret_cast<uintptr_t>(data) % sizeof(Columns) == 0 && stride % columns == 0) {}

  __device__ Columns load(int64_t row, int64_t col, int count) const {
    const float* const from = data + row * stride + col;
    if (wide && count == columns) return *reinterpret_cast<const Columns*>(from);
    Columns values{};
    for (int j = 0; j < columns; ++j)
      if (j < count) values[j] = from[j];
    return values;
  }
  __device__ void store(int64_t row, int64_t col, int count, const Columns& values) const {
    float* const to = data + row * stride + col;
    if (wide && count == columns) *reinterpret_cast<Columns*>(to) = values;
    else
      for (int j = 0; j < columns; ++j)
        if (j < count) to[j] = values[j];
  }
};

constexpr int64_t most_threads = 128;

/// A block for each place of the sorted tokens and each range of columns: those of an id's first token add them all.
__global__ void __launch_bounds__(most_threads)
    add_rows(Sorted sorted, int64_t tokens, Fours dx, Fours dtable, int64_t width) {
  constexpr unsigned ahead = 8;  // rows in flight
  const int64_t first = blockIdx.x, col = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * columns;
  const int32_t id = sorted.ids[first];
  if (first > 0 && sorted.ids[first - 1] == id) return;
  const int count = col >= width ? 0 : width - col < columns ? static_cast<int>(width - col) : columns;
  Columns sum = dtable.load(id, col, count);
  unsigned found = warp_lanes;
  for (int64_t from = first; found == warp_lanes; from += warp_lanes) {
    const int64_t own = from + lane();  // each lane looks at a token of all
    const bool same = own < tokens && sorted.ids[own] == id;
    const int32_t token = same ? sorted.tokens[own] : 0;
    found = over_warp(same ? warp_lanes : lane(), [](unsigned a, unsigned b) { return a < b ? a : b; });
    for (unsigned begin = 0; begin < found; begin += ahead) {
      Columns values[ahead];
      NIBBLE_UNROLL
      for (unsigned i = 0; i < ahead; ++i)
        if (begin + i < found) values[i] = dx.load(of_lane(token, begin + i), col, count);
      NIBBLE_UNROLL
      for (unsigned i = 0; i < ahead; ++i)
        if (begin + i < found)
          for (int j = 0; j < columns; ++j) sum[j] += values[i][j];
    }
  }
  dtable.store(id, col, count, sum);
}

}  // namespace

void embedding_forward(Stream& stream, std::span<const int32_t> ids, const Tensor& table, const Tensor& x) {
  with_float_type(table.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, x.rows, x.cols, Gather<T>{ids.data(), Rows<T>(table), Rows<float>(x)});
  });
}

void embedding_backward(Stream& stream, std::span<const int32_t> ids, const Tensor& dx, const EmbeddingScratch& scratch,
                        const Tensor& dtable) {
  if (dx.rows == 0 || dx.cols == 0) return;
  const auto tiles = static_cast<unsigned>((dx.rows + tile - 1) / tile);
  auto* const counts = scratch.counts.on_device<int32_t>();
  Sorted sorted{const_cast<int32_t*>(ids.data()), nullptr};  // the first pass reads only
  const int id_bits = std::bit_width(static_cast<uint64_t>(dtable.rows - 1));
  for (int shift = 0, pass = 0; pass == 0 || shift < id_bits; shift += digit_bits, ++pass) {
    const int64_t half = pass % 2;
    const Sorted next{scratch.ids.slice_rows(half, 1).on_device<int32_t>(),
                      scratch.tokens.slice_rows(half, 1).on_device<int32_t>()};
    launch(stream.queue(), {tiles}, {tile}, 0, count_digits, sorted.ids, dx.rows, shift, counts);
    launch(stream.queue(), {tiles}, {tile}, 0, place_by_digit, sorted, dx.rows, shift, counts, next);
    sorted = next;
  }
  const int64_t threads_of_row = (dx.cols + columns - 1) / columns;
  const int64_t threads = std::min((threads_of_row + warp_lanes - 1) / warp_lanes * warp_lanes, most_threads);
  const auto ranges = static_cast<unsigned>((threads_of_row + threads - 1) / threads);
  launch(stream.queue(), {static_cast<unsigned>(dx.rows), ranges}, {static_cast<unsigned>(threads)}, 0, add_rows,
         sorted, dx.rows, Fours(dx), Fours(dtable), dx.cols);
}

}  // namespace nibble::cuda
