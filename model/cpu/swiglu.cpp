#include "model/swiglu.hpp"

#include "model/cpu/dispatch.hpp"
#include "model/cuda/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {

using simd::f32x, simd::for_each_group, simd::load_n, simd::sigmoid, simd::store_n;

void swiglu_forward(Stream& stream, const Tensor& gate_up, const Tensor& y) {
  const KernelTimer timer(stream, "swiglu_forward", {gate_up, y});
  if (stream.on_device()) return cuda::swiglu_forward(stream, gate_up, y);
  const int64_t ffn = y.cols;
  with_operand_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(stream, y.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* gate = gate_up.row<T>(t);
        T* out = y.row<T>(t);
        for_each_group(ffn, [&](int64_t i, int64_t count) {
          const f32x g = load_n(gate + i, count);
          store_n(out + i, g * sigmoid(g) * load_n(gate + ffn + i, count), count);
        });
      }
    });
  });
}

Scalar swiglu_with_largest(Stream& stream, const Tensor& gate_up, const Tensor& y) {
  if (stream.on_device()) {
    const KernelTimer timer(stream, "swiglu_with_largest", {gate_up, y});
    return cuda::swiglu_with_largest(stream, gate_up, y);
  }
  swiglu_forward(stream, gate_up, y);
  return tensor_statistic(stream, {.values = y}, {});
}

Operand swiglu_quantize(Stream& stream, const Tensor& gate_up, const Tensor& y, bool keeps_y,
                        const QuantizeArguments& arguments) {
  if (stream.on_device()) {
    const KernelTimer timer(stream, "swiglu_quantize",
                            {gate_up, keeps_y ? y : Tensor(), arguments.values, arguments.parts.codes,
                             arguments.parts.scales, arguments.parts.mask});
    check_length(y, arguments.how);
    return cuda::swiglu_quantize(stream, gate_up, y, keeps_y, arguments);
  }
  swiglu_forward(stream, gate_up, y);
  return quantize(stream, {.values = y}, arguments.how, arguments.statistic, arguments.values, arguments.scale,
                  arguments.parts);
}

void swiglu_backward(Stream& stream, const Tensor& dy, const Tensor& gate_up, const Tensor& dgate_up) {
  const KernelTimer timer(stream, "swiglu_backward", {dy, gate_up, dgate_up});
  if (stream.on_device()) return cuda::swiglu_backward(stream, dy, gate_up, dgate_up);
  const int64_t ffn = dy.cols;
  with_operand_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(stream, dy.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* gate = gate_up.row<T>(t);
        const T* gradient = dy.row<T>(t);
        T* out = dgate_up.row<T>(t);
        for_each_group(ffn, [&](int64_t i, int64_t count) {
          const f32x g = load_n(gate + i, count), u = load_n(gate + ffn + i, count), d = load_n(gradient + i, count);
          const f32x s = sigmoid(g);
          store_n(out + i, d * u * s * (1.0f + g * (1.0f - s)), count);
          store_n(out + ffn + i, d * g * s, count);
        });
      }
    });
  });
}

}  // namespace nibble
