// What quantizing, restoring and turning back cost per element, beside copying.
//
// Each name says what is done, the reduction axis, the shape and where the matrix lies. `cached`: 128 rows, again and
// again. `memory`: 2048 rows, one of a ring of matrices that no cache holds. Inputs are bf16. A measurement has one or
// two threads (taskset pins them); the counters are nanoseconds for an element times threads, and bytes read and
// written. `copy` is the same traffic without arithmetic.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "quant/quantize.hpp"
#include "quant/quantizers.hpp"

namespace nibble {
namespace {

using namespace quantizers;

struct Case {
  std::string name;
  Quantizer quantizer{};
  Rotation rotation{};
  DType type = DType::bf16;
  bool codes = false;  ///< and scales, masks: what the forward pass leaves
};

struct Shape {
  int64_t rows, cols;
  size_t count;  ///< of matrices in the ring
  std::string name;
};

std::vector<Shape> shapes() {
  constexpr size_t beyond_caches = size_t{512} << 20;
  std::vector<Shape> list;
  for (const int64_t cols : {640, 1792}) {
    list.push_back({128, cols, 1, fmt::format("128x{}/cached", cols)});
    list.push_back(
        {2048, cols, beyond_caches / static_cast<size_t>(2048 * cols * 2), fmt::format("2048x{}/memory", cols)});
  }
  return list;
}

/// Values of a normal distribution's width, no two rows alike.
OwnedTensor activations(int64_t rows, int64_t cols, uint32_t number) {
  OwnedTensor x(DType::bf16, rows, cols);
  const RandomStream random(1, Purpose::initialization, 0, number);
  for (int64_t i = 0; i < rows * cols; i += 2) {
    const auto pair = random.normal_pair(static_cast<uint64_t>(i / 2) % 4096);
    for (size_t j = 0; j < 2; ++j) x.view().as<bf16>()[i + static_cast<int64_t>(j)] = bf16(pair[j]);
  }
  return x;
}

/// One matrix of a ring, with memory for whatever is made of it.
struct Matrices {
  OwnedTensor x, values, scale, codes, scales, mask;

  Matrices(const Shape& shape, const Case& what, Axis axis, uint32_t number)
      : x(activations(shape.rows, shape.cols, number)), values(what.type, shape.rows, shape.cols) {
    const int64_t outer = axis == Axis::cols ? shape.rows : shape.cols, depth = shape.rows * shape.cols / outer;
    const Quantizer& q = what.quantizer;
    if (q.quantizes() && q.extent == Extent::row) scale = OwnedTensor(DType::f32, 1, outer);
    mask = OwnedTensor(DType::u8, outer, depth / 8);
    if (!what.codes) return;
    codes = OwnedTensor(DType::u8, outer, depth / 8 * q.element->bits());
    if (q.blocks()) scales = OwnedTensor(DType::u8, outer, depth / q.group);
  }
  QuantizedParts parts(const Quantizer& q) const {
    return {codes, scales, codes.view() && q.mask != MaskRule::all ? mask.view() : Tensor()};
  }
};

enum class Work { quantize, statistic_and_quantize, statistic, restore, unrotate };

void measure(benchmark::State& state, Work work, const Case& what, Axis axis, const Shape& shape, int threads) {
  Stream stream(threads);
  std::vector<Matrices> ring;
  for (uint32_t number = 0; number < shape.count; ++number) ring.emplace_back(shape, what, axis, number);
  std::optional<Hadamard> hadamard;
  const int64_t depth = axis == Axis::cols ? shape.cols : shape.rows;
  if (what.rotation) hadamard = Hadamard::of_order(what.rotation.over(depth), what.name);
  const std::vector<float> signs =
      rotation_signs(what.rotation.signs, what.rotation.over(depth), RandomStream(1, Purpose::rotation_signs));
  const Quantization how{
      .quantizer = what.quantizer, .axis = axis, .hadamard = hadamard ? &*hadamard : nullptr, .signs = signs};
  if (work == Work::restore)
    for (const Matrices& of : ring) quantize(stream, {of.x}, how, 4, of.values, of.scale, of.parts(what.quantizer));
  size_t next = 0;
  for (auto _ : state) {
    const Matrices& of = ring[next++ % ring.size()];
    float statistic = 4;
    if (work == Work::statistic || work == Work::statistic_and_quantize)
      benchmark::DoNotOptimize(statistic = tensor_statistic(stream, {of.x}, how));
    if (work == Work::quantize || work == Work::statistic_and_quantize)
      quantize(stream, {of.x}, how, statistic, of.values, of.scale, of.parts(what.quantizer));
    if (work == Work::restore) restore(stream, what.quantizer, of.parts(what.quantizer), of.values, axis);
    if (work == Work::unrotate)
      unrotate(stream, of.x, axis, how.hadamard, signs, axis == Axis::cols ? of.mask.view() : Tensor(), of.values);
  }
  const auto elements = static_cast<double>(shape.rows * shape.cols);
  state.counters["ns/element"] = benchmark::Counter(
      elements * 1e-9 / threads, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  const size_t out = work == Work::statistic ? 0 : bytes_of(what.type, shape.rows, shape.cols);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(out + static_cast<size_t>(elements) * 2));
}

void copy(benchmark::State& state, const Shape& shape, int threads) {
  Stream stream(threads);
  std::vector<Matrices> ring;
  for (uint32_t number = 0; number < shape.count; ++number) ring.emplace_back(shape, Case{}, Axis::cols, number);
  size_t next = 0;
  for (auto _ : state) {
    const Matrices& of = ring[next++ % ring.size()];
    parallel_for(stream, shape.rows, 1, [&](int64_t begin, int64_t end) {
      std::memcpy(of.values.view().row<char>(begin), of.x.view().row<char>(begin),
                  static_cast<size_t>((end - begin) * shape.cols) * sizeof(bf16));
    });
    benchmark::ClobberMemory();
  }
  const auto elements = static_cast<double>(shape.rows * shape.cols);
  state.counters["ns/element"] = benchmark::Counter(
      elements * 1e-9 / threads, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  state.SetBytesProcessed(state.iterations() * shape.rows * shape.cols * 4);
}

[[maybe_unused]] const bool registered = [] {
  const Quantizer mxfp4 = mx(formats::e2m1, MxScale::floor), int8 = per_tensor(formats::int8);
  const Rotation random64{64, Signs::random}, random128{128, Signs::random}, hadamard128{128}, full{Rotation::full};
  const std::pair<Work, Case> cases[] = {
      {Work::quantize, {.name = "nothing"}},
      {Work::quantize, {.name = "rotation-128", .rotation = hadamard128}},
      {Work::statistic, {.name = "statistic"}},
      {Work::statistic, {.name = "statistic/rotation-128", .rotation = random128}},
      {Work::quantize, {.name = "mxfp4", .quantizer = mxfp4}},
      {Work::quantize, {.name = "mxfp4/codes", .quantizer = mxfp4, .codes = true}},
      {Work::quantize, {"mxfp4-stochastic/rotation-64", mxfp4_three_quarters(Rounding::stochastic), random64}},
      {Work::quantize,
       {.name = "quartet/codes", .quantizer = quartet(QuestScale::nearest), .rotation = {32}, .codes = true}},
      {Work::quantize, {.name = "nvfp4", .quantizer = nvfp4}},
      {Work::quantize, {.name = "nvfp4-4over6", .quantizer = four_over_six(nvfp4)}},
      {Work::quantize, {.name = "nvfp4-4over6/codes", .quantizer = four_over_six(nvfp4), .codes = true}},
      {Work::quantize, {"nvfp4-stochastic", nvfp4_stochastic}},
      {Work::statistic_and_quantize, {"ms-eden/rotation-128", ms_eden(16), random128}},
      {Work::quantize, {"quest8/rotation-128/bf16", quest(8), hadamard128}},
      {Work::quantize, {"quest8/rotation-128/i8", quest(8), hadamard128, DType::i8}},
      {Work::quantize, {"quest4/rotation-128/bf16", quest(4), hadamard128}},
      {Work::quantize, {"quest4/rotation-128/i8", quest(4), hadamard128, DType::i8}},
      {Work::quantize, {"quest4/rotation-128/i8/codes", quest(4), hadamard128, DType::i8, true}},
      {Work::quantize, {"fp8", per_tensor(formats::e4m3)}},
      {Work::quantize, {.name = "fp8/codes", .quantizer = per_tensor(formats::e4m3), .codes = true}},
      {Work::quantize, {"int8/rotation-full/i8", int8, full, DType::i8}},
      {Work::restore, {.name = "restore/mxfp4", .quantizer = mxfp4, .codes = true}},
      {Work::restore, {.name = "restore/nvfp4", .quantizer = nvfp4, .codes = true}},
      {Work::restore, {.name = "restore/fp8", .quantizer = per_tensor(formats::e4m3), .codes = true}},
      {Work::unrotate, {.name = "unrotate-128", .rotation = hadamard128}},
  };
  const auto add = [](const std::string& name, auto&&... with) {
    benchmark::RegisterBenchmark(name.c_str(), with...)->UseRealTime()->Unit(benchmark::kMicrosecond);
  };
  for (const int threads : {1, 2})
    for (const Shape& shape : shapes()) {
      add(fmt::format("copy/{}/{}", shape.name, threads), copy, shape, threads);
      for (const auto& [work, what] : cases)
        for (const Axis axis : {Axis::cols, Axis::rows})
          add(fmt::format("{}/{}/{}/{}", what.name, axis == Axis::cols ? "cols" : "rows", shape.name, threads), measure,
              work, what, axis, shape, threads);
    }
  return true;
}();

}  // namespace
}  // namespace nibble
