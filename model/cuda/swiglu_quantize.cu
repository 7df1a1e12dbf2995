// SwiGLU and quantization in one kernel.
#include "model/cuda/kernels.hpp"
#include "model/cuda/made_input.hpp"
#include "quant/cuda/kernels.hpp"
#include "quant/cuda/quantize_kernels.hpp"

namespace nibble::cuda {
namespace {

struct GatedElements {
  static constexpr bool for_all_quantizers = false;

  TileSource gate, up;
  MadeMatrix made;

  __device__ void fill(const TileShape& shape, const TilePlace& place, const OnTheWay& way, float* tile,
                       float* /*of_rows*/) const {
    fill_tile(shape, place, way, 0.0f, tile, [&](int64_t row, int64_t col, int count, float(&values)[group_elements]) {
      float g[group_elements], u[group_elements];
      gate.load(row, col, count, 1, g);
      up.load(row, col, count, 1, u);
      for (int j = 0; j < group_elements; ++j) values[j] = gated(g[j], u[j]);
      made.pass(row, col, count, values);
    });
  }
};

}  // namespace

Operand swiglu_quantize(Stream& stream, const Tensor& gate_up, const Tensor& y, bool keeps_y,
                        const QuantizeArguments& arguments) {
  const int64_t ffn = y.cols;
  if (is_plain(arguments.how.quantizer)) {
    const Arrangement arrangement(stream, y, arguments.how, false, {}, parts_of(arguments.parts), false);
    if (arrangement.plan) {
      const TileSource gate({.values = gate_up.slice_cols(0, ffn)}), up({.values = gate_up.slice_cols(ffn, ffn)});
      return launch_quantizer(stream, GatedElements{gate, up, MadeMatrix(y, keeps_y)}, arrangement, arguments.how,
                              arguments.statistic, arguments.values, arguments.scale, nullptr);
    }
  }
  cuda::swiglu_forward(stream, gate_up, y);
  return cuda::quantize(stream, {.values = y}, arguments.how, arguments.statistic, arguments.values, arguments.scale,
                        arguments.parts, nullptr);
}

}  // namespace nibble::cuda
