#include "model/cuda/kernels.hpp"
#include "model/cuda/made_input.hpp"
#include "quant/cuda/largest.hpp"
#include "tensor/cuda/quotient.hpp"

namespace nibble::cuda {
namespace {

template <class T>
struct SwigluForward {
  Rows<T> gate, up, y;

  /// Returns the elements before they were rounded, zeros behind `count`.
  __device__ Group operator()(int64_t row, int64_t col, int count) const {
    const Group g = gate.load(row, col, count), u = up.load(row, col, count);
    Group out;
    for (int j = 0; j < group_elements; ++j) out[j] = gated(g[j], u[j]);
    y.store(row, col, count, out);
    return out;
  }
};

template <class T>
__global__ void forward_with_largest(SwigluForward<T> forward, int64_t rows, int64_t cols, float* of_blocks) {
  const int64_t of_row = (cols + group_elements - 1) / group_elements;
  float most = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * of_row;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t row = quotient(i, of_row), col = (i - row * of_row) * group_elements;
    const Group out = forward(row, col, static_cast<int>(cols - col < group_elements ? cols - col : group_elements));
    for (int j = 0; j < group_elements; ++j) most = larger_magnitude(most, magnitude(out[j]));
  }
  leave_largest(static_cast<float>(rounded_to<T>(most)), of_blocks);  // rounding keeps the order
}

template <class T>
struct SwigluBackward {
  Rows<T> dy, gate, up, dgate, dup;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    const Group g = gate.load(row, col, count), u = up.load(row, col, count), d = dy.load(row, col, count);
    Group of_gate, of_up;
    for (int j = 0; j < group_elements; ++j) {
      const float s = sigmoid(g[j]);
      of_gate[j] = d[j] * u[j] * s * (1.0f + g[j] * (1.0f - s));
      of_up[j] = d[j] * g[j] * s;
    }
    dgate.store(row, col, count, of_gate);
    dup.store(row, col, count, of_up);
  }
};

}  // namespace

void swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& y) {
  const int64_t ffn = y.cols;
  const Tensor gate = gate_up.slice_cols(0, ffn), up = gate_up.slice_cols(ffn, ffn);
  with_float_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, y.rows, ffn, SwigluForward<T>{Rows<T>(gate), Rows<T>(up), Rows<T>(y)});
  });
}

Scalar swiglu_with_largest(Stream& stream, const Tensor& gate_up, const Tensor& y) {
  constexpr unsigned threads = 256;
  const int64_t ffn = y.cols, groups = (ffn + group_elements - 1) / group_elements * y.rows;
  const Tensor gate = gate_up.slice_cols(0, ffn), up = gate_up.slice_cols(ffn, ffn);
  float* const of_blocks = largest_of_each_block(stream);
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>((groups + threads - 1) / threads, most_blocks_of_largest));
  if (blocks > 0)
    with_float_type(y.dtype, [&](auto type) {
      using T = decltype(type);
      launch(stream.queue(), {blocks}, {threads}, 0, forward_with_largest<T>,
             SwigluForward<T>{Rows<T>(gate), Rows<T>(up), Rows<T>(y)}, y.rows, ffn, of_blocks);
    });
  return largest_of_blocks(stream, of_blocks, blocks);
}

void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& dgate_up) {
  const int64_t ffn = dy.cols;
  const Tensor gate = gate_up.slice_cols(0, ffn), up = gate_up.slice_cols(ffn, ffn);
  const Tensor dgate = dgate_up.slice_cols(0, ffn), dup = dgate_up.slice_cols(ffn, ffn);
  with_float_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    for_each_group(stream, dy.rows, ffn,
                   SwigluBackward<T>{Rows<T>(dy), Rows<T>(gate), Rows<T>(up), Rows<T>(dgate), Rows<T>(dup)});
  });
}

}  // namespace nibble::cuda
