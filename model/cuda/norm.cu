// A block holds as many rows at once as its threads' registers take, so that memory is read once. Sums have the CPU's
// order: products go through shared memory to sixteen lanes for each row, which run over it as simd.hpp's lanes do.
#include <string>
#include <type_traits>

#include "model/cuda/kernels.hpp"
#include "model/cuda/made_input.hpp"
#include "quant/cuda/largest.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned threads = 256;
constexpr int64_t most_at_once = 64;  ///< rows: what narrow ones take of shared memory has a bound

/// Rows to normalise: `per_token` of them stand side by side in each row of the matrices.
struct Cut {
  int width;
  unsigned per_token, groups;  ///< of 8 elements in a row
  unsigned at_once;            ///< rows that a block holds

  /// `kept` groups by each thread.
  Cut(int64_t row_width, int64_t rows_of_token, int kept)
      : width(static_cast<int>(row_width)),
        per_token(static_cast<unsigned>(rows_of_token)),
        groups(static_cast<unsigned>((row_width + group_elements - 1) / group_elements)),
        at_once(static_cast<unsigned>(std::min<int64_t>(int64_t{kept} * threads / groups, most_at_once))) {}

  /// Floats from row to row in shared memory: half warps that sum rows next to each other meet no bank twice.
  __host__ __device__ unsigned pitch() const { return (static_cast<unsigned>(width) + 31) / 32 * 32 + sum_lanes; }
  size_t shared_floats() const { return size_t{at_once} * (pitch() + 2); }

  __device__ int64_t token(unsigned row) const { return per_token == 1 ? row : row / per_token; }
  __device__ unsigned part(unsigned row) const { return per_token == 1 ? 0 : row % per_token; }
};

/// Elements of one of the rows that a block holds.
struct Piece {
  unsigned row;
  int col, count;

  /// The thread's k-th, of `rows` rows; without elements where there are so many no more.
  __device__ Piece(const Cut& cut, int k, unsigned rows) {
    const unsigned index = threadIdx.x + static_cast<unsigned>(k) * threads;
    row = index / cut.groups;
    col = static_cast<int>(index - row * cut.groups) * group_elements;
    const int left = cut.width - col;
    count = row >= rows ? 0 : left < group_elements ? left : group_elements;
  }
};

/// The matrix behind a Cut.
template <class T>
struct CutRows {
  Rows<T> matrix;

  CutRows(const Tensor& x, const Cut& cut) : matrix(x, cut.per_token == 1 ? group_elements : cut.width) {}
  __device__ Group load(const Cut& cut, unsigned row, const Piece& piece) const {
    return matrix.load(cut.token(row), int64_t{cut.part(row)} * cut.width + piece.col, piece.count);
  }
  __device__ void store(const Cut& cut, unsigned row, const Piece& piece, const Group& group) const {
    matrix.store(cut.token(row), int64_t{cut.part(row)} * cut.width + piece.col, piece.count, group);
  }
};

/// One number of each row: [1, tokens], or [tokens, rows of a token].
struct RowNumbers {
  float* data;
  int64_t stride;

  explicit RowNumbers(const Tensor& x) : data(x.on_device<float>()), stride(x.rows > 1 ? x.stride : 1) {}
  __device__ float& operator()(const Cut& cut, unsigned row) const {
    return data[cut.token(row) * stride + cut.part(row)];
  }
};

/// Rows of floats in shared memory. Of each 64 elements the second 32 stand with their fours swapped in pairs, so that
/// threads which write groups of eight side by side meet no bank twice.
struct RowsOfBlock {
  float* data;
  unsigned pitch;

  static __device__ unsigned place(unsigned col) { return col ^ (col >> 5 & 1) << 2; }

  __device__ void store(const Piece& piece, const Group& group) const {
    if (piece.count == 0) return;
    float* const row = data + piece.row * pitch;
    for (int half = 0; half < 2; ++half) {
      Pack<float, 4> four;
      for (int j = 0; j < 4; ++j) four[j] = group[4 * half + j];
      *reinterpret_cast<Pack<float, 4>*>(row + place(static_cast<unsigned>(piece.col + 4 * half))) = four;
    }
  }
  __device__ float at(unsigned row, unsigned col) const { return data[row * pitch + place(col)]; }
};

/// What one of a row's lanes sums.
__device__ float part_of_sum(const RowsOfBlock& rows, unsigned row, int width) {
  const auto in_row = static_cast<int>(lane() % sum_lanes);
  const float *const from = rows.data + row * rows.pitch + in_row, *const swapped = from - in_row + (in_row ^ 4);
  return sum_of_lane(of_sum_lane(width, in_row),
                     [&](int first, int k) { return ((k & 2) == 0 ? from : swapped)[16 * (first + k)]; });
}

/// finish(row, sum) for each of the rows, on one thread. Of the whole block.
template <class Finish>
__device__ void sum_rows(const RowsOfBlock& rows, unsigned count, int width, const Finish& finish) {
  __syncthreads();
  const unsigned units = (count * sum_lanes + warp_lanes - 1) / warp_lanes * warp_lanes;  // warps do not part
  for (unsigned unit = threadIdx.x; unit < units; unit += threads) {
    const unsigned row = unit / sum_lanes;
    const float sum = joined(row < count ? part_of_sum(rows, row, width) : 0.0f);
    if (row < count && unit % sum_lanes == 0) finish(row, sum);
  }
  __syncthreads();
}

/// x and y may be the same. `saved`, where it is, receives x, and `largest` the largest magnitude of y of each block.
template <int kept, class X, class Y>
__global__ void __launch_bounds__(threads)
    forward_rows(CutRows<X> x, Rows<float> gain, float epsilon, CutRows<Y> y, CutRows<X> saved, RowNumbers inverse_rms,
                 float* largest, Cut cut, unsigned rows, unsigned batches_of_block) {
  const RowsOfBlock squares{shared_memory<float>(), cut.pitch()};
  float* const factors = squares.data + cut.at_once * squares.pitch;
  const bool saves = saved.matrix.row(0) != nullptr, counts = inverse_rms.data != nullptr;
  const unsigned batch = blockIdx.x * batches_of_block;
  float most = 0;
  for (unsigned first = batch * cut.at_once, i = 0; i < batches_of_block && first < rows; ++i, first += cut.at_once) {
    const unsigned here = rows - first < cut.at_once ? rows - first : cut.at_once;
    Group values[kept];
    NIBBLE_UNROLL
    for (int k = 0; k < kept; ++k) {
      const Piece piece(cut, k, here);
      values[k] = x.load(cut, first + piece.row, piece);
      if (saves) saved.store(cut, first + piece.row, piece, values[k]);
      Group square;
      for (int j = 0; j < group_elements; ++j) square[j] = values[k][j] * values[k][j];
      squares.store(piece, square);
    }
    sum_rows(squares, here, cut.width, [&](unsigned row, float sum) {
      factors[row] = inverse_rms_of(sum, cut.width, epsilon);
      if (counts) inverse_rms(cut, first + row) = factors[row];
    });
    NIBBLE_UNROLL
    for (int k = 0; k < kept; ++k) {
      const Piece piece(cut, k, here);
      if (piece.count == 0) continue;
      const Group g = gain.load(0, piece.col, piece.count);
      const float r = factors[piece.row];
      for (int j = 0; j < group_elements; ++j) values[k][j] = values[k][j] * r * g[j];
      y.store(cut, first + piece.row, piece, values[k]);
      if (largest)
        for (int j = 0; j < group_elements; ++j)  // behind a row's end are zeros
          most = larger_magnitude(most, magnitude(values[k][j]));
    }
    __syncthreads();
  }
  if (largest) leave_largest(static_cast<float>(rounded_to<Y>(most)), largest);  // rounding keeps the order
}

/// Where gradients of rows go: added to the residual stream's, with a copy in the operands' type.
template <class T>
struct ToResidual {
  CutRows<float> dx;
  CutRows<T> operand;

  __device__ Group before(const Cut& cut, unsigned row, const Piece& piece) const { return dx.load(cut, row, piece); }
  __device__ void store(const Cut& cut, unsigned row, const Piece& piece, Group group, const Group& before) const {
    for (int j = 0; j < group_elements; ++j) group[j] = before[j] + group[j];
    dx.store(cut, row, piece, group);
    operand.store(cut, row, piece, group);
  }
};

/// Instead of the outputs' gradients.
template <class T>
struct InPlace {
  CutRows<T> dx;

  __device__ Group before(const Cut&, unsigned, const Piece&) const { return {}; }
  __device__ void store(const Cut& cut, unsigned row, const Piece& piece, const Group& group, const Group&) const {
    dx.store(cut, row, piece, group);
  }
};

/// A block for each block of tokens, whose part of dgain is summed row after row.
template <int kept, class D, class X, class To>
__global__ void __launch_bounds__(threads)
    backward_rows(CutRows<D> dy, CutRows<X> x, Rows<float> gain, RowNumbers inverse_rms, To to, Rows<float> block_sums,
                  Cut cut, unsigned rows) {
  constexpr bool keeps_gain = kept <= 2, loads_ahead = kept <= 4;  // as registers allow
  const RowsOfBlock products{shared_memory<float>(), cut.pitch()};
  float* const scales = products.data + cut.at_once * products.pitch;
  float* const projections = scales + cut.at_once;
  float* const dgain = projections + cut.at_once;
  const unsigned width = static_cast<unsigned>(cut.width);
  for (unsigned col = threadIdx.x; col < width; col += threads) dgain[col] = 0;
  Group held_gain[keeps_gain ? kept : 1];
  if (keeps_gain) {
    NIBBLE_UNROLL
    for (int k = 0; k < kept; ++k) {
      const Piece piece(cut, k, cut.at_once);
      held_gain[k] = gain.load(0, piece.col, piece.count);
    }
  }
  const auto gain_of = [&](int k, const Piece& piece) {
    return keeps_gain ? held_gain[k] : gain.load(0, piece.col, piece.count);
  };

  const unsigned of_block = static_cast<unsigned>(rms_norm_block_tokens) * cut.per_token;
  const unsigned begin = blockIdx.x * of_block, end = rows - begin < of_block ? rows : begin + of_block;
  for (unsigned first = begin; first < end; first += cut.at_once) {
    const unsigned here = end - first < cut.at_once ? end - first : cut.at_once;
    Group values[kept], gradients[kept], before[loads_ahead ? kept : 1];
    NIBBLE_UNROLL
    for (int k = 0; k < kept; ++k) {
      const Piece piece(cut, k, here);
      values[k] = x.load(cut, first + piece.row, piece);
      gradients[k] = dy.load(cut, first + piece.row, piece);
      if (loads_ahead) before[k] = to.before(cut, first + piece.row, piece);
    }
    NIBBLE_UNROLL
    for (int k = 0; k < kept; ++k) {
      const Piece piece(cut, k, here);
      const Group g = gain_of(k, piece);
      Group product;
      for (int j = 0; j < group_elements; ++j) product[j] = g[j] * gradients[k][j] * values[k][j];
      products.store(piece, product);
    }
    sum_rows(products, here, cut.width, [&](unsigned row, float sum) {
      const float r = inverse_rms(cut, first + row);
      scales[row] = r;
      projections[row] = sum / static_cast<float>(cut.width) * r * r;
    });
    NIBBLE_UNROLL
    for (int k = 0; k < kept; ++k) {
      const Piece piece(cut, k, here);
      if (piece.count == 0) continue;
      const Group g = gain_of(k, piece);
      const float r = scales[piece.row], projection = projections[piece.row];
      Group gradient, of_gain;
      for (int j = 0; j < group_elements; ++j) {
        const float v = values[k][j], d = gradients[k][j];
        gradient[j] = r * (g[j] * d - v * projection);
        of_gain[j] = d * v * r;
      }
      to.store(cut, first + piece.row, piece, gradient,
               loads_ahead ? before[k] : to.before(cut, first + piece.row, piece));
      products.store(piece, of_gain);
    }
    __syncthreads();
    for (unsigned col = threadIdx.x; col < width; col += threads) {
      float sum = dgain[col];
      for (unsigned row = 0; row < here; ++row) sum += products.at(row, col);
      dgain[col] = sum;
    }
    __syncthreads();
  }
  float* const result = block_sums.row(blockIdx.x);
  for (unsigned col = threadIdx.x; col < width; col += threads) result[col] = dgain[col];
}

/// A column for each thread.
__global__ void sum_blocks(Rows<float> block_sums, int64_t blocks, float* dgain, int64_t width) {
  constexpr int64_t ahead = 32;  // loads in flight
  const int64_t col = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (col >= width) return;
  float sum = 0;
  for (int64_t first = 0; first < blocks; first += ahead) {
    float values[ahead];
    NIBBLE_UNROLL
    for (int64_t i = 0; i < ahead; ++i) values[i] = first + i < blocks ? block_sums.row(first + i)[col] : 0.0f;
    NIBBLE_UNROLL
    for (const float value : values) sum += value;
  }
  dgain[col] = sum;
}

/// Groups that each thread holds of what a block does at once.
template <int kept>
using Kept = std::integral_constant<int, kept>;
constexpr int64_t widest_of(int kept) { return int64_t{kept} * threads * group_elements; }

void check_width(int64_t width, int64_t widest) {
  if (width > widest)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "a norm too wide for a device",
                 .seen = std::to_string(width),
                 .allowed = "1 to " + std::to_string(widest),
                 .next = "train this width on the CPU"});
}

/// action(kept) with a constant that suffices.
template <class Action>
void with_kept(int64_t width, const Action& action) {
  check_width(width, widest_of(8));
  if (width <= widest_of(2)) action(Kept<2>());
  else if (width <= widest_of(4)) action(Kept<4>());
  else action(Kept<8>());
}

/// Returns the number of blocks.
template <class X, class Y, int kept>
unsigned forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                 const Tensor& saved, const Tensor& inverse_rms, float* largest, const Cut& cut, Kept<kept>) {
  constexpr unsigned most_batches = 4, busy_blocks = 2048;
  const unsigned rows = static_cast<unsigned>(x.rows) * cut.per_token;
  if (rows == 0) return 0;
  const unsigned batches = (rows + cut.at_once - 1) / cut.at_once;
  unsigned of_block = std::clamp(batches / busy_blocks, 1u, most_batches);  // which find the gain in a cache
  if (largest) of_block = std::max(of_block, (batches + most_blocks_of_largest - 1) / most_blocks_of_largest);
  const unsigned blocks = (batches + of_block - 1) / of_block;
  launch(stream.queue(), {blocks}, {threads}, cut.shared_floats() * sizeof(float), forward_rows<kept, X, Y>,
         CutRows<X>(x, cut), Rows<float>(gain), epsilon, CutRows<Y>(y, cut), CutRows<X>(saved, cut),
         RowNumbers(inverse_rms), largest, cut, rows, of_block);
  return blocks;
}

/// Of the residual stream.
unsigned forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                 const Tensor& inverse_rms, float* largest) {
  unsigned blocks = 0;
  with_float_type(y.dtype, [&](auto type) {
    with_kept(x.cols, [&](auto kept) {
      blocks = forward<float, decltype(type)>(stream, x, gain, epsilon, y, {}, inverse_rms, largest,
                                              Cut(x.cols, 1, kept), kept);
    });
  });
  return blocks;
}

template <class D, class X, class To, int kept>
void backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& inverse_rms,
              const To& to, const Tensor& dgain, const Tensor& scratch, const Cut& cut, Kept<kept>) {
  const int64_t blocks = rms_norm_scratch_rows(x.rows);
  const size_t shared_bytes = (cut.shared_floats() + static_cast<size_t>(cut.width)) * sizeof(float);
  if (blocks > 0)
    launch(stream.queue(), {static_cast<unsigned>(blocks)}, {threads}, shared_bytes, backward_rows<kept, D, X, To>,
           CutRows<D>(dy, cut), CutRows<X>(x, cut), Rows<float>(gain), RowNumbers(inverse_rms), to,
           Rows<float>(scratch), cut, static_cast<unsigned>(x.rows) * cut.per_token);
  const unsigned sums = (static_cast<unsigned>(cut.width) + warp_lanes - 1) / warp_lanes;
  launch(stream.queue(), {sums}, {warp_lanes}, 0, sum_blocks, Rows<float>(scratch), blocks, dgain.on_device<float>(),
         int64_t{cut.width});
}

}  // namespace

void rms_norm_forward(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                      const Tensor& inverse_rms) {
  forward(stream, x, gain, epsilon, y, inverse_rms, nullptr);
}

Scalar rms_norm_with_largest(Stream& stream, const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y,
                             const Tensor& inverse_rms) {
  float* const of_blocks = largest_of_each_block(stream);
  return largest_of_blocks(stream, of_blocks, forward(stream, x, gain, epsilon, y, inverse_rms, of_blocks));
}

void rms_norm_backward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& inverse_rms,
                       const Tensor& dx, const Tensor& dx_operand, const Tensor& dgain, const Tensor& scratch) {
  with_float_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    with_kept(x.cols, [&](auto kept) {
      const Cut cut(x.cols, 1, kept);
      const ToResidual<T> to{CutRows<float>(dx, cut), CutRows<T>(dx_operand, cut)};
      backward<T, float>(stream, dy, x, gain, inverse_rms, to, dgain, scratch, cut, kept);
    });
  });
}

void head_norm_forward(Stream& stream, const Tensor& gain, float epsilon, const Tensor& x, const HeadNormSaved* saved) {
  constexpr Kept<2> kept;
  check_width(gain.cols, widest_of(kept));
  const HeadNormSaved to = saved ? *saved : HeadNormSaved{Tensor(x.dtype, nullptr, 0, 0), {}};
  const Cut cut(gain.cols, x.cols / gain.cols, kept);
  with_float_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    forward<T, T>(stream, x, gain, epsilon, x, to.input, to.inverse_rms, nullptr, cut, kept);
  });
}

void head_norm_backward(Stream& stream, const Tensor& gain, const HeadNormSaved& saved, const Tensor& dx,
                        const Tensor& dgain, const Tensor& scratch) {
  constexpr Kept<2> kept;
  check_width(gain.cols, widest_of(kept));
  const Cut cut(gain.cols, dx.cols / gain.cols, kept);
  with_float_type(dx.dtype, [&](auto type) {
    using T = decltype(type);
    backward<T, T>(stream, dx, saved.input, gain, saved.inverse_rms, InPlace<T>{CutRows<T>(dx, cut)}, dgain, scratch,
                   cut, kept);
  });
}

}  // namespace nibble::cuda
