// The three products of the 30M Llama's linear layers over 2048 tokens: bf16, and int8 codes, by Nibble's kernels and
// by oneDNN; and what scaling and offsets cost.
//
// Each name says operands, library, what goes with them, the product and the layer's outputs x inputs. forward: tokens
// x outputs from rows of both operands; dgrad: tokens x inputs; wgrad: outputs x inputs, added onto f32. The peak is
// measure_gemm_peak's: the tile kernel on panels in L1, in the same run. All cores that the process may use
// multiply: taskset.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "tensor/convert.hpp"
#include "tensor/gemm.hpp"

namespace nibble {
namespace {

constexpr int64_t tokens = 2048;

enum class Pass { forward, dgrad, wgrad };
enum class Extra { none, scaled, offsets };

struct Layer {
  int64_t outputs, inputs;
};

/// Neither zeros, which take less power, nor a pattern that the caches would see.
OwnedTensor operand(Stream& stream, DType type, int64_t rows, int64_t cols) {
  OwnedTensor x(type, rows, cols);
  const OwnedTensor values(DType::f32, rows, cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const auto code = static_cast<int8_t>(static_cast<uint32_t>(i) * 2654435761u >> 24);
    if (type == DType::i8) x.view().as<int8_t>()[i] = code;
    else values.view().as<float>()[i] = code;
  }
  if (type != DType::i8) convert(stream, values, x);
  return x;
}

void product(benchmark::State& state, DType type, const char* library, Extra extra, Pass pass, Layer layer) {
  setenv("NIBBLE_GEMM", library, 1);
  Stream stream;
  const OwnedTensor x = operand(stream, type, tokens, layer.inputs),
                    w = operand(stream, type, layer.outputs, layer.inputs),
                    dy = operand(stream, type, tokens, layer.outputs), y(DType::bf16, tokens, layer.outputs),
                    dx(DType::bf16, tokens, layer.inputs), dw(DType::f32, layer.outputs, layer.inputs),
                    of_tokens(DType::f32, 1, tokens), of_outputs(DType::f32, 1, layer.outputs);
  Scaling scaling;
  if (extra != Extra::none) {
    scaling.factor = 1e-6f;
    scaling.rows = pass == Pass::wgrad ? of_outputs : of_tokens;
    if (pass == Pass::forward) scaling.cols = of_outputs;
  }
  if (extra == Extra::offsets) scaling.a_offset = scaling.b_offset = 0.5f;
  for (auto _ : state) {
    switch (pass) {
      case Pass::forward:
        gemm(stream, x, Transpose::no, w, Transpose::yes, y, {}, scaling);
        break;
      case Pass::dgrad:
        gemm(stream, dy, Transpose::no, w, Transpose::no, dx, {}, scaling);
        break;
      case Pass::wgrad:
        gemm(stream, dy, Transpose::yes, x, Transpose::no, dw, dw, scaling);
        break;
    }
  }
  state.counters["GOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(tokens * layer.outputs * layer.inputs),
                                               benchmark::Counter::kIsIterationInvariantRate);
  unsetenv("NIBBLE_GEMM");
}

void peak(benchmark::State& state, DType type) {
  setenv("NIBBLE_GEMM", "packed", 1);
  Stream stream;
  double best = 0;
  for (auto _ : state) best = std::max(best, measure_gemm_peak(stream, type));
  state.counters["GOP/s"] = best * 1e3;
  unsetenv("NIBBLE_GEMM");
}

[[maybe_unused]] const bool registered = [] {
  struct Variant {
    const char* name;
    DType type;
    const char* library;
    Extra extra;
  };
  constexpr Variant variants[] = {
      {"bf16/packed/plain", DType::bf16, "packed", Extra::none},
      {"bf16/packed/scaled", DType::bf16, "packed", Extra::scaled},
      {"i8/packed/plain", DType::i8, "packed", Extra::none},
      {"i8/packed/scaled", DType::i8, "packed", Extra::scaled},
      {"i8/packed/offsets", DType::i8, "packed", Extra::offsets},
      {"i8/onednn/plain", DType::i8, "onednn", Extra::none},
      {"i8/onednn/scaled", DType::i8, "onednn", Extra::scaled},
  };
  constexpr std::pair<const char*, Pass> passes[] = {
      {"forward", Pass::forward}, {"dgrad", Pass::dgrad}, {"wgrad", Pass::wgrad}};
  for (const DType type : {DType::bf16, DType::i8})
    benchmark::RegisterBenchmark(fmt::format("{}/packed/peak", name(type)).c_str(), peak, type)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  for (const Layer layer : {Layer{1920, 640}, {640, 640}, {3584, 640}, {640, 1792}})
    for (const auto& [pass_name, pass] : passes)
      for (const Variant& variant : variants)
        benchmark::RegisterBenchmark(
            fmt::format("{}/{}/{}x{}", variant.name, pass_name, layer.outputs, layer.inputs).c_str(), product,
            variant.type, variant.library, variant.extra, pass, layer)
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
}  // namespace nibble
