// Selecting the largest of 2^24 floats, against reading them.
//
// `of_buckets/k`: k of every 512; `of_all/n`: 1 of every n. Values are normally distributed; `equal` has but one
// magnitude, which is the worst for thresholds. `nth_element` is what the standard library takes for the buckets;
// `read` adds up the values. One thread.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/error_feedback.hpp"
#include "tensor/random.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

constexpr int64_t elements = int64_t{1} << 24;

const std::vector<float>& normal() {
  static const std::vector<float> values = [] {
    std::vector<float> made(elements);
    const RandomStream random(1, Purpose::initialization);
    for (size_t i = 0; i < made.size(); i += 2) {
      const auto pair = random.normal_pair(i / 2);
      made[i] = pair[0], made[i + 1] = pair[1];
    }
    return made;
  }();
  return values;
}

const std::vector<float>& equal() {
  static const std::vector<float> values(elements, 1.0f);
  return values;
}

void count_elements(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * elements);
  state.SetBytesProcessed(state.iterations() * elements * 4);
}

void of_buckets(benchmark::State& state, const std::vector<float>& values) {
  Stream stream(1);
  for (auto _ : state) benchmark::DoNotOptimize(top_k_of_buckets(stream, values, static_cast<int>(state.range(0))));
  count_elements(state);
}

/// The same of gradient + residual, in bf16, with what stays written beside: 12 bytes an element.
void with_feedback(benchmark::State& state) {
  Stream stream(1);
  ErrorFeedback feedback(elements);
  const std::vector<float>& values = normal();
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        feedback.select(stream, values, {.of = Selection::Of::buckets, .k = state.range(0)}, Wire::bf16));
    feedback.commit();
  }
  count_elements(state);
}

/// A sum of few elements written as the vector that it is.
void write(benchmark::State& state) {
  Stream stream(1);
  const SparseStream few = top_k_of_buckets(stream, normal(), static_cast<int>(state.range(0)));
  const OwnedTensor all(DType::f32, 1, elements);
  for (auto _ : state) few.write({all.view().as<float>(), static_cast<size_t>(elements)});
  count_elements(state);
}

void of_all(benchmark::State& state, const std::vector<float>& values) {
  Stream stream(1);
  for (auto _ : state) benchmark::DoNotOptimize(top_k(stream, values, elements / state.range(0)));
  count_elements(state);
}

void nth_element(benchmark::State& state) {
  const std::vector<float>& values = normal();
  std::vector<uint32_t> order(bucket_elements);
  for (auto _ : state)
    for (int64_t first = 0; first < elements; first += bucket_elements) {
      std::iota(order.begin(), order.end(), static_cast<uint32_t>(first));
      std::nth_element(order.begin(), order.begin() + state.range(0), order.end(),
                       [&](uint32_t a, uint32_t b) { return std::fabs(values[a]) > std::fabs(values[b]); });
      benchmark::DoNotOptimize(order.data());
    }
  count_elements(state);
}

void read(benchmark::State& state) {
  Stream stream(1);
  const std::vector<float>& values = normal();
  for (auto _ : state)
    parallel_for(stream, elements, simd::lanes, [&](int64_t begin, int64_t end) {
      simd::f32x sums[4] = {};
      for (int64_t i = begin; i < end; i += 4 * simd::lanes)
        for (int64_t j = 0; j < 4; ++j) sums[j] += simd::load(values.data() + i + j * simd::lanes);
      benchmark::DoNotOptimize(simd::sum(sums[0] + sums[1] + sums[2] + sums[3]));
    });
  count_elements(state);
}

BENCHMARK_CAPTURE(of_buckets, normal, normal())->Arg(1)->Arg(4)->Arg(16)->Arg(51)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(of_buckets, equal, equal())->Arg(4)->Unit(benchmark::kMillisecond);
BENCHMARK(with_feedback)->Arg(4)->Arg(16)->Unit(benchmark::kMillisecond);
BENCHMARK(write)->Arg(4)->Arg(16)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(of_all, normal, normal())->Arg(512)->Arg(128)->Arg(10)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(of_all, equal, equal())->Arg(128)->Unit(benchmark::kMillisecond);
BENCHMARK(nth_element)->Arg(4)->Unit(benchmark::kMillisecond);
BENCHMARK(read)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace nibble
