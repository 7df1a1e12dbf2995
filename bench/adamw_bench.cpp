// One step of AdamW and AdEMAMix in each precision of moments, one of Muon's momentum, and one gradient norm, over the
// parameters of the 30M Llama, against the memory's bandwidth.
//
// AdamW reads master, gradient and both moments (f32: 16 bytes an element), writes master and moments (12) and the bf16
// working copy (2; the cache reads its lines first, which is not counted). The ceiling is the same traffic without
// arithmetic worth the name: four arrays read, three written.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "optim/adamw.hpp"
#include "optim/ademamix.hpp"
#include "optim/gradient_norm.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

class Set {
 public:
  Set() {
    constexpr int64_t width = 640, ffn = 1792, vocabulary = 32000, layers = 6;
    add(vocabulary, width);
    for (int64_t layer = 0; layer < layers; ++layer) {
      add(1, width);
      for (int i = 0; i < 4; ++i) add(width, width);
      add(1, width);
      add(ffn, width);
      add(ffn, width);
      add(width, ffn);
    }
    add(1, width);
    add(vocabulary, width);
    memory_ = Arena("bench", [this](Arena& arena) {
      list.clear();
      elements = 0;
      for (const ParameterInfo& info : infos_) {
        const auto packed = [&] {
          return Tensor(DType::f32, arena.take(DType::f32, 1, info.size()).data, info.rows, info.cols);
        };
        const Tensor master = packed(), gradient = packed();
        list.push_back({&info, master, gradient, arena.take(DType::bf16, info.rows, info.cols), true});
        elements += info.size();
      }
    });
    for (const OptimizedParameter& parameter : list)
      for (int64_t i = 0; i < parameter.master.size(); ++i)
        parameter.gradient.as<float>()[i] = parameter.master.as<float>()[i] = 0.01f * static_cast<float>(i % 7 - 3);
  }

  std::vector<OptimizedParameter> list;
  int64_t elements = 0;

 private:
  void add(int64_t rows, int64_t cols) {
    infos_.push_back({.name = std::to_string(infos_.size()), .rows = rows, .cols = cols});
  }
  std::vector<ParameterInfo> infos_;
  Arena memory_;
};

MomentSettings moments(const benchmark::State& state) {
  return {.precision = static_cast<MomentPrecision>(state.range(1)), .seed = 1, .embedding_codes = true};
}

/// Beside the moments: master and gradient read, master and working copy written.
constexpr int64_t bytes_of_update = 4 + 4 + 4 + 2;

template <class AnyOptimizer>
void steps(benchmark::State& state, const Set& set, AnyOptimizer& optimizer) {
  Stream stream(static_cast<int>(state.range(0)));
  StateList moments_of;
  optimizer.state(moments_of);
  int64_t step = 0;
  for (auto _ : state) optimizer.step(stream, {.step = ++step, .learning_rate = 1e-4, .gradient_scale = 0.5});
  state.SetLabel(moment_precision_names[static_cast<size_t>(state.range(1))]);
  state.SetBytesProcessed(state.iterations() *
                          (set.elements * bytes_of_update + 2 * static_cast<int64_t>(moments_of.bytes())));
}

void adamw(benchmark::State& state) {
  const Set set;
  AdamW optimizer(set.list, {.moments = moments(state)});
  steps(state, set, optimizer);
}

void ademamix(benchmark::State& state) {
  const Set set;
  AdEMAMix optimizer(set.list, {.moments = moments(state)});
  steps(state, set, optimizer);
}

void momentum(benchmark::State& state) {
  Stream stream(static_cast<int>(state.range(0)));
  const Set set;
  std::vector<Moment> momenta;
  const Arena memory("bench", [&](Arena& arena) {
    momenta.clear();
    for (const OptimizedParameter& parameter : set.list)
      momenta.push_back(take_moment(arena, MomentKind::matrix_momentum, moments(state), parameter));
  });
  const OwnedTensor direction(DType::f32, 1, set.elements);
  int64_t step = 0, bytes = 2 * 4 * set.elements;
  for (const Moment& moment : momenta) bytes += 2 * static_cast<int64_t>(moment.bytes());
  for (auto _ : state) {
    ++step;
    for (size_t i = 0; i < momenta.size(); ++i)
      momentum_update(stream, set.list[i].gradient, momenta[i],
                      direction.view().slice_cols(0, momenta[i].values.size()),
                      {.gradient_scale = 0.5f, .momentum = 0.95f, .nesterov = true, .step = step});
  }
  state.SetLabel(moment_precision_names[static_cast<size_t>(state.range(1))]);
  state.SetBytesProcessed(state.iterations() * bytes);
}

void norm(benchmark::State& state) {
  Stream stream(static_cast<int>(state.range(0)));
  const Set set;
  std::vector<Tensor> gradients;
  for (const OptimizedParameter& parameter : set.list) gradients.push_back(parameter.gradient);
  for (auto _ : state) benchmark::DoNotOptimize(gradient_norm(gradient_square_sums(stream, gradients)));
  state.SetBytesProcessed(state.iterations() * set.elements * 4);
}

void ceiling(benchmark::State& state) {
  Stream stream(static_cast<int>(state.range(0)));
  constexpr int64_t n = int64_t{1} << 26;
  std::vector<OwnedTensor> memory;
  for (int i = 0; i < 4; ++i) memory.emplace_back(DType::f32, 1, n);
  float* const a = memory[0].view().as<float>();
  float* const b = memory[1].view().as<float>();
  float* const c = memory[2].view().as<float>();
  float* const d = memory[3].view().as<float>();
  std::fill_n(d, n, 1.0f);  // the others are written below; pages that nobody wrote are one page of zeros
  for (auto _ : state)
    parallel_for(stream, n, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += simd::lanes) {
        const simd::f32x x = simd::load(d + i);
        simd::store(a + i, simd::load(a + i) + x);
        simd::store(b + i, simd::load(b + i) + x);
        simd::store(c + i, simd::load(c + i) + x);
      }
    });
  state.SetBytesProcessed(state.iterations() * n * 28);
}

void threads_and_precisions(benchmark::internal::Benchmark* measured) {
  for (const int64_t threads : {1, 2})
    for (const int64_t precision : {0, 1, 2}) measured->Args({threads, precision});
  measured->UseRealTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK(adamw)->Apply(threads_and_precisions);
BENCHMARK(ademamix)->Apply(threads_and_precisions);
BENCHMARK(momentum)->Apply(threads_and_precisions);
BENCHMARK(norm)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(ceiling)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace nibble
