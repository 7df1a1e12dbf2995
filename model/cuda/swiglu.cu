#include "model/cuda/kernels.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/exponential.hpp"

namespace nibble::cuda {
namespace {

template <class T>
struct SwigluForward {
  Rows<T> gate, up, y;

  __device__ void operator()(int64_t row, int64_t col, int count) const {
    const Group g = gate.load(row, col, count), u = up.load(row, col, count);
    Group out;
    for (int j = 0; j < group_elements; ++j) out[j] = g[j] * sigmoid(g[j]) * u[j];
    y.store(row, col, count, out);
  }
};

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
