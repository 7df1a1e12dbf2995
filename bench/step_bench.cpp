// Training steps of the 30M Llama (6 layers, width 640, 5 heads of 128, FFN 1792, vocabulary 32000) on 4 sequences of
// 512 random tokens, the shape of the papers and of the PyTorch baseline: tokens/s, and the share of the GEMM peak
// that is measured in the same process.
//
// `Step` is forward, backward and AdamW; `ForwardBackward` leaves the optimizer out, as in a step of many
// micro-batches.
#include <benchmark/benchmark.h>

#include "comm/exchange.hpp"
#include "optim/adamw.hpp"
#include "tensor/gemm.hpp"
#include "tensor/random.hpp"
#include "trainer/train_step.hpp"

namespace nibble {
namespace {

constexpr ModelConfig config_30m{.vocabulary = 32000,
                                 .width = 640,
                                 .layers = 6,
                                 .heads = 5,
                                 .kv_heads = 5,
                                 .head_dim = 128,
                                 .ffn = 1792,
                                 .context = 512};
constexpr int64_t sequences = 4, length = 512;

struct Bench {
  Bench(const char* recipe, Recompute recompute)
      : stream(),
        model(stream, config_30m, find_recipe(recipe),
              {.sequences = sequences, .length = length, .recompute = recompute}) {
    const RandomStream random(1, Purpose::sampling);
    batch = {.sequences = sequences,
             .length = length,
             .inputs = {},
             .targets = {},
             .document_starts = {},
             .loss_tokens = sequences * length};
    for (uint64_t i = 0; i < sequences * length; ++i) {
      batch.inputs.push_back(static_cast<int32_t>(random.word(2 * i) % 32000));
      batch.targets.push_back(static_cast<int32_t>(random.word(2 * i + 1) % 32000));
    }
  }

  void report(benchmark::State& state, double peak) const {
    const double flops = config_30m.flops_per_token(length);
    const auto tokens = static_cast<double>(state.iterations() * sequences * length);
    state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
    state.counters["TFLOP/s"] = benchmark::Counter(tokens * flops * 1e-12, benchmark::Counter::kIsRate);
    state.counters["peak TFLOP/s"] = peak;
    state.counters["threads"] = stream.threads();
  }

  Stream stream;
  Llama model;
  Batch batch;
};

void step(benchmark::State& state, const char* recipe, Recompute recompute) {
  Bench bench(recipe, recompute);
  const double peak = measure_gemm_peak(bench.stream, find_recipe(recipe).operands);
  TrainStep train(
      bench.stream, bench.model,
      {.micro_batches = 1,
       .lanes = 1,
       .clip = 1.0,
       .schedule = {.kind = ScheduleKind::constant, .peak = 3e-4, .steps = 1 << 30}},
      std::vector<bool>(bench.model.layout().parameters().size(), true),
      [](std::vector<OptimizedParameter> parameters) {
        return std::make_unique<AdamW>(std::move(parameters), AdamWSettings{});
      },
      make_self_exchange());
  initialize(bench.stream, config_30m, bench.model.layout(), 1, 0.02, train.masters());
  train.masters_changed();
  int64_t steps = 0;
  train.run(steps++, bench.batch);
  double optimizer = 0;
  for (auto _ : state) optimizer += train.run(steps++, bench.batch).seconds.optimizer;
  bench.report(state, peak);
  state.counters["optimizer share"] = benchmark::Counter(optimizer, benchmark::Counter::kIsRate);
}

void forward_backward(benchmark::State& state, const char* recipe, Recompute recompute) {
  Bench bench(recipe, recompute);
  const double peak = measure_gemm_peak(bench.stream, find_recipe(recipe).operands);
  const ParameterSet masters(bench.model.layout(), DType::f32, DType::f32, false, "masters"),
      weights = bench.model.make_weights(), gradients = bench.model.make_gradients();
  initialize(bench.stream, config_30m, bench.model.layout(), 1, 0.02, masters);
  copy_parameters(bench.stream, masters, weights);
  const auto run = [&] {
    bench.model.loss_and_gradients(weights, {bench.batch.inputs, bench.batch.targets, {}},
                                   {.loss_scale = 1.0f / (sequences * length)}, gradients);
  };
  run();
  for (auto _ : state) run();
  bench.report(state, peak);
}

BENCHMARK_CAPTURE(step, bf16, "bf16", Recompute::none)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(step, bf16_recompute, "bf16", Recompute::block)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(forward_backward, bf16, "bf16", Recompute::none)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(forward_backward, fp32, "fp32", Recompute::none)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace nibble
